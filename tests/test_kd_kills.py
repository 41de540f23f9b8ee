"""SIGKILL three times in one training, resumed each time: in the end every file is that of a run left in peace."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import kills
from kd2edge.run import Run
from tests import tiny

pytestmark = [pytest.mark.kd, pytest.mark.slow]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> kills.Plan:
    """A teacher that is trained and a student it teaches, with all but a compiler; a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("kills")
    recipe = tiny.recipe(tiny.image_folder(folder / "photos", 40, splits=("train", "val", "test")), {"name": "kd"})
    train = {**recipe["train"], "epochs": 4, "accumulate": 2, "clip": 5.0, "ema": 0.9, "precision": "bf16"}
    more = {"validation": {"split": "val"}, "track": ["tensorboard"]}
    recipe |= {"train": train, "teacher": {**recipe["teacher"], "train": train, "remember": True}, **more}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return kills.Plan(recipe=str(folder / "recipe.yaml"), settings={}, save_seconds=0.0)


def test_three_kills_change_not_a_bit(plan: kills.Plan, tmp_path: Path) -> None:
    """Two seconds from the first checkpoint on each process is about to train, save, export, or begin a stage."""
    left_in_peace, run = tmp_path / "peace" / "run", tmp_path / "killed" / "run"
    plan.finish(left_in_peace, resume=False)
    moments = np.random.default_rng(8).uniform(0, 2, 3).tolist()
    found = kills.killed(plan, run, moments, once_it_saves=True)
    plan.finish(run, resume=True)
    one, other = kills.digests(left_in_peace), kills.digests(run)
    assert kills.differing(one, other) == [], found
    assert {"teacher.onnx", "fp32.onnx", "log/fp32.jsonl", "train/teacher/teacher.safetensors"} <= {*one}
    assert any(not told.startswith(("before", "it had")) for told in found), found
    made = [event["role"] for event in Run(run).events() if event.get("kind") == "onnx"]
    assert sorted(made) == ["fp32", "teacher"]


def test_a_bit_that_changes_is_told(tmp_path: Path) -> None:
    for name, loss in (("one", 1.0), ("other", 1.5)):
        run = tmp_path / name
        (run / "log").mkdir(parents=True)
        (run / "fp32.onnx").write_bytes(name.encode())
        (run / "ledger.jsonl").write_text("")
        lines = [json.dumps({"loss": 2.0, "seconds": loss}), json.dumps({"loss": loss, "seconds": 3})]
        (run / "log" / "fp32.jsonl").write_text("\n".join(lines) + "\n")
        (run / "log" / "plain.jsonl").write_text(lines[0] + "\n")
    one, other = kills.digests(tmp_path / "one"), kills.digests(tmp_path / "other")
    assert kills.differing(one, other) == ["fp32.onnx", "log/fp32.jsonl"]  # a time alone makes no difference
    assert kills.differing(one, {}) == sorted(one)
