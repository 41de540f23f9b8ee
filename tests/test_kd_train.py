"""The loop: resumed is the same as uninterrupted, bit for bit; NaN, damage and a full disk are told in a sentence."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kd2edge.data import Split, open_source
from kd2edge.errors import UserError
from kd2edge.kd import checkpoint, net
from kd2edge.kd.distill import Work
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.run import Run
from kd2edge.schema import NetSpec, Recipe, Train
from tests import tiny

pytestmark = pytest.mark.kd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("images"))


class Interrupting(Silent):
    """Presses Ctrl-C once, after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        if figures:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)


class Job:
    """One stage of plain training of a fresh tiny net with dropout, in its own folder."""

    def __init__(self, data: Path, out: Path, **train: object) -> None:
        source = open_source({"name": "imagefolder", "path": str(data), "size": 16})
        self.split: Split = source.split("train")
        torch.manual_seed(0)
        self.net = net.build(NetSpec.model_validate(tiny.net()), net.Shape(3, (16, 16), 3))
        self.net.neck = nn.Sequential(self.net.neck, nn.Dropout(0.3))
        plan = {"epochs": 3, "batch": 8, "lr": 0.05, "augment": {"flip": True, "crop_padding": 2}, **train}
        self.plan, self.how, self.out = Train.model_validate(plan), source.preprocessing(), out
        out.mkdir(exist_ok=True)

    def train(self, progress: Silent | None = None, **options: Any) -> dict[str, torch.Tensor]:
        """Further options are the trainer's."""
        task = Task("classification")

        def supervised(batch: Batch) -> Losses:
            return {"ce": task.supervised(self.net, self.net(batch.images), batch.labels)}

        told, log = progress or Silent(), self.out / "log.jsonl"
        trainer = Trainer(self.split, self.how, self.plan, 0, self.out, log, told, **options)
        trainer.run(Stage("student", self.net, supervised))
        return self.net.state_dict()


def log(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("after", [4, 5, 6, 9, 15])
def test_resuming_is_bit_exact(folder: Path, tmp_path: Path, after: int, precision: str) -> None:
    straight = Job(folder, tmp_path / "straight", precision=precision).train()
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "resumed", precision=precision).train(Interrupting(after))
    resumed = Job(folder, tmp_path / "resumed", precision=precision).train()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert log(tmp_path / "straight") == log(tmp_path / "resumed")
    assert not list(tmp_path.rglob("*.partial.*"))


@pytest.mark.parametrize("after", [4, 9])
def test_resuming_keeps_the_average_bit_for_bit(folder: Path, tmp_path: Path, after: int) -> None:
    straight = Job(folder, tmp_path / "straight", ema=0.9).train()
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "resumed", ema=0.9).train(Interrupting(after))
    resumed = Job(folder, tmp_path / "resumed", ema=0.9).train()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    plain = Job(folder, tmp_path / "plain").train()
    assert any(not torch.equal(straight[key], plain[key]) for key in straight)


def test_what_ships_of_an_average_is_that_of_all_steps(folder: Path, tmp_path: Path) -> None:
    """Against numpy in float64, over what an unaveraged training of the same seed passes through."""
    job, seen = Job(folder, tmp_path / "plain"), []

    class Watching(Silent):
        def advance(self, steps: int = 1, **figures: float | str) -> None:
            if figures:
                seen.append({k: v.double().numpy().copy() for k, v in job.net.state_dict().items()})

    start = {k: v.double().numpy().copy() for k, v in job.net.state_dict().items()}
    job.train(Watching())
    averaged = Job(folder, tmp_path / "ema", ema=0.8).train()
    expected = start
    for n, now in enumerate(seen, 1):
        decay = min(0.8, (1 + n) / (10 + n))
        expected = {k: decay * expected[k] + (1 - decay) * now[k] for k in now}
    counts = [key for key in averaged if "num_batches" in key]
    assert counts
    assert all(int(averaged[key]) == len(seen) for key in counts)
    for key in averaged.keys() - set(counts):
        np.testing.assert_allclose(averaged[key].numpy(), expected[key], rtol=2e-5, atol=1e-6)


def test_a_torn_log_line_is_dropped(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "run").train(Interrupting(7))
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"stage": "stud')
    Job(folder, tmp_path / "run").train()
    assert [line["epoch"] for line in log(tmp_path / "run")] == [1, 2, 3]


def test_a_finished_stage_is_not_trained_again(folder: Path, tmp_path: Path) -> None:
    first = Job(folder, tmp_path / "run").train()
    before = (tmp_path / "run" / "log.jsonl").read_text()
    again = Job(folder, tmp_path / "run").train()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert (tmp_path / "run" / "log.jsonl").read_text() == before


def test_a_loss_that_is_not_finite_stops_and_says_where(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite in stage student, epoch \d, step \d \(ce = ") as caught:
        Job(folder, tmp_path / "run", lr=1e30).train()
    assert "lower train.lr" in str(caught.value)


def test_a_truncated_checkpoint_is_told_and_nothing_else_is_touched(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "run").train(Interrupting(4))
    partial = tmp_path / "run" / "student.partial.safetensors"
    partial.write_bytes(partial.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoint .* is damaged"):
        Job(folder, tmp_path / "run").train()
    partial.unlink()
    Job(folder, tmp_path / "run").train()


def test_what_a_kill_left_of_a_write_is_removed_when_the_run_is_opened(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(tiny.recipe(folder, {"name": "kd"}))
    torn = [tmp_path / "run" / name for name in (".fp32.onnx.x1.part", "train/teacher/.a.partial.safetensors.x2.part")]
    other = tmp_path / "run" / "train" / "notes.part"
    other.parent.mkdir(parents=True)
    torn[1].parent.mkdir()
    for path in (*torn, other):
        path.touch()
    Work.open(recipe, Run(tmp_path / "run"), Silent())
    assert [path for path in (*torn, other) if path.exists()] == [other]


def test_checkpoints_hold_any_tree(tmp_path: Path) -> None:
    tree = {"a": [torch.arange(3), {"b": None, 0: 1.5}], "c": "text", "d": True, "e": torch.tensor(2.0)}
    back = checkpoint.read(checkpoint.write(tree, tmp_path / "x.safetensors"))
    assert back["a"][1] == {"b": None, 0: 1.5}
    assert (back["c"], back["d"], back["e"].item()) == ("text", True, 2.0)
    assert torch.equal(back["a"][0], torch.arange(3))


@pytest.mark.parametrize("skeleton", ["5", "[]", '{"items": [[[1], {"value": 1}]]}', "[" * 100_000])
def test_a_checkpoint_that_is_something_else_is_told(tmp_path: Path, skeleton: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"skeleton": skeleton})
    with pytest.raises(UserError, match=r"checkpoint .* is damaged"):
        checkpoint.read(tmp_path / "x.safetensors")


def test_the_log_tells_every_epoch(folder: Path, tmp_path: Path) -> None:
    Job(folder, tmp_path / "run").train()
    lines = log(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) and line["images"] == 40 for line in lines)  # type: ignore[call-overload]


def test_a_batch_larger_than_the_data_is_cut(folder: Path, tmp_path: Path) -> None:
    Job(folder, tmp_path / "run", batch=500, epochs=1).train()
    assert log(tmp_path / "run")[0]["images"] == 44
