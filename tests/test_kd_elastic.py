"""A process killed under torchrun: all are started anew, go on from the last checkpoint, and end at the same bits."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file

from kd2edge.data import open_source
from kd2edge.errors import UserError
from kd2edge.kd import elastic, net, torchrun, validate, weights
from kd2edge.kd.method import Lesson, make
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.tasks import Task
from kd2edge.run import Run
from kd2edge.verbs.distill import distill
from tests import processes, tiny

pytestmark = pytest.mark.kd

MORTAL = '''"""A net one of whose processes is killed in the middle of the student's training, once."""

import os
import signal

from torch import Tensor, nn

from kd2edge.kd.net import Backbone, Shape


class Mortal(Backbone):
    stride = 2

    class Config(Backbone.Config):
        width: int = 6

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.width = config.width
        convolution = nn.Conv2d(shape.channels, self.width, 3, 2, 1)
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(self.width), nn.ReLU())
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += self.training
        told = {name: os.environ.get(name) for name in ("KILL_AT", "RANK", "TORCHELASTIC_RESTART_COUNT")}
        if told == {"KILL_AT": str(self.seen), "RANK": "1", "TORCHELASTIC_RESTART_COUNT": "0"} and self.width == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(images)
'''


def declared(folder: Path) -> Path:
    """A recipe of KD in four epochs of six steps, each judged on a validation split."""
    (folder / "mortal.py").write_text(MORTAL)
    images = tiny.image_folder(folder / "images", splits=("train", "val", "test"))
    train = {"epochs": 4, "batch": 8, "lr": 0.05, "precision": "fp32", "ema": 0.9, "augment": {"flip": True}}
    tree: dict[str, Any] = tiny.recipe(images, {"name": "kd"}, train=train)
    model = {"name": str(folder / "mortal.py")}
    teacher = {"model": {**model, "width": 8}, "train": {**train, "epochs": 1}}
    tree |= {"teacher": teacher, "student": {"model": model}, "validation": {"every": 1}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return folder / "recipe.yaml"


def unbroken(ranks: Ranks, folder: Path) -> None:
    with processes.without_onnx():
        distill(str(folder / "recipe.yaml"), (), folder / "straight")


def distilled(recipe: Path, out: Path, **told: str) -> subprocess.CompletedProcess[str]:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m", "--"]
    command = [sys.executable, "-m", *torchrun, "kd2edge", "distill", str(recipe), "--run", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **told}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=recipe.parent)


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log" / "fp32.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_killed_rank_costs_nothing_but_time(tmp_path: Path) -> None:
    recipe = declared(tmp_path)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    processes.on_ranks(2, unbroken, tmp_path)
    done = distilled(recipe, broken, KILL_AT="15")  # in the third epoch
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    assert "A process that trains with this one is gone" in done.stderr
    assert "teacher: finished earlier" in done.stdout + done.stderr
    for name in ("teacher.safetensors", "fp32.safetensors"):
        one, other = load_file(straight / name), load_file(broken / name)
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert log(straight) == log(broken)
    assert [line["epoch"] for line in log(broken)] == [1, 2, 3, 4]
    roles = [event["role"] for event in Run(broken).events() if event["event"] == "artifact"]
    assert sorted(roles) == ["fp32", "fp32", "teacher", "teacher"]  # weights and ONNX of each, once
    assert not list(broken.rglob("*.partial.*")) + list(broken.rglob("*.part"))
    assert {name: value for name, value in log(broken)[-1].items() if name.startswith("val_")} == alone(broken)


def alone(run: Path) -> dict[str, float]:
    """What one process makes of the validation split with the net that two trained."""
    recipe = Run(run).recipe
    source = open_source(recipe.data.model_dump())
    student = net.build(recipe.student, net.Shape(3, (16, 16), 3))
    weights.load_into(student, str(run / "fp32.safetensors"))
    lesson = Lesson(Task("classification"), net.Shape(3, (16, 16), 3), recipe.student, student, student=student)
    method = make(recipe.method, lesson)
    judge = validate.Validator(method, source.split("val"), source.preprocessing(), 1, Ranks(0, 1), print)
    (stage,) = method.stages()
    return judge(stage, 1)


def test_only_a_restart_that_finds_a_run_goes_on_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert not torchrun.restarted(tmp_path / "recipe.yaml")
    for count, found in (("0", False), ("1", True), ("2", True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert torchrun.restarted(tmp_path / "recipe.yaml") == found
        assert not torchrun.restarted(tmp_path / "none.yaml")


def test_those_that_live_meet_under_a_new_name_whatever_the_dead_left() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined, unused-ignore]
    names: list[str] = []
    for start in range(3):
        store.set("asked/1", f"of a process that died before start {start}")
        with ThreadPoolExecutor(3) as living:
            first = living.submit(elastic.gathered, store, 3)
            others = [living.submit(elastic.introduced, store, number) for number in (1, 2)]
            found = {future.result(timeout=30) for future in (first, *others)}
        assert len(found) == 1
        names += found
    assert len(set(names)) == 3


def test_those_who_do_not_come_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "PATIENCE", 0.05)
    with pytest.raises(UserError, match="Of 3 processes that shall train together 1 came"):
        elastic.gathered(dist.HashStore(), 3)  # type: ignore[attr-defined, unused-ignore]


def test_a_lost_process_is_told_and_a_defect_stays_one() -> None:
    for lost in (RuntimeError("gloo/transport/tcp/pair.cc: Connection closed by peer"), dist.DistError("no peer")):
        with pytest.raises(UserError, match="is gone"), elastic.lost():
            raise lost
    with pytest.raises(RuntimeError, match="of ours"), elastic.lost():
        raise RuntimeError("a defect of ours")
