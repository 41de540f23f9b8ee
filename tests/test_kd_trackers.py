"""Who is told of a training: every figure once, whatever died in between, and nobody's fault stops it."""

import io
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kd2edge.data import InMemory
from kd2edge.errors import MissingExtra
from kd2edge.kd import trackers
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.trackers import tensorboard
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.schema import Preprocessing, Recipe, Train
from kd2edge.verbs.distill import begin
from tests import tiny
from tests.test_kd_train import Interrupting

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
pytestmark = pytest.mark.kd


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder: (step, value) by tag, in order."""
    found = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


class Deaf:
    """A tracker whose store is gone."""

    def __init__(self) -> None:
        self.asked = 0

    def rewind(self, stage: str, step: int) -> None:
        pass

    def tell(self, stage: str, step: int, figures: object) -> None:
        self.asked += 1
        raise OSError("no such store\nsecond line")

    def close(self, finished: bool = True) -> None:
        raise OSError("still none")


def test_figures_come_back_exactly_by_stage(tmp_path: Path) -> None:
    tracker = trackers.open_tracker(["tensorboard"], tmp_path, "run", pytest.fail)
    for stage in ("teacher", "fp32/student"):
        tracker.rewind(stage, 0)
        for step in range(1, 1200):
            tracker.tell(stage, step, {"loss": step / 3, "lr": 0.1})
    tracker.close()
    told = scalars(tmp_path / "tensorboard" / "fp32" / "student")
    assert told["loss"] == [(step, float(np.float32(step / 3))) for step in range(1, 1200)]
    assert told == scalars(tmp_path / "tensorboard" / "teacher")


KILLED = """
import os, signal, sys
from pathlib import Path
from kd2edge.kd import trackers
start, end = int(sys.argv[2]), int(sys.argv[3])
tracker = trackers.open_tracker(["tensorboard"], Path(sys.argv[1]), "run", print)
tracker.rewind("student", start)
for step in range(start + 1, end + 1):
    tracker.tell("student", step, {"loss": step * 0.5})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("torn", [0, 7])
def test_what_a_killed_process_told_is_there_and_what_is_told_anew_is_there_once(tmp_path: Path, torn: int) -> None:
    """Killed after step 20, saved at 12; killed after 17, saved at 15; each without closing anything."""
    for start, end in ((0, 20), (12, 17)):
        done = subprocess.run([sys.executable, "-W", "error", "-c", KILLED, str(tmp_path), str(start), str(end)])
        assert done.returncode == -signal.SIGKILL
    last = max((tmp_path / "tensorboard" / "student").iterdir())
    last.write_bytes(last.read_bytes()[: last.stat().st_size - torn])
    tracker = trackers.open_tracker(["tensorboard"], tmp_path, "run", pytest.fail)
    tracker.rewind("student", 15)
    for step in range(16, 31):
        tracker.tell("student", step, {"loss": step * 0.5})
    tracker.close()
    assert scalars(tmp_path / "tensorboard" / "student") == {"loss": [(step, step * 0.5) for step in range(1, 31)]}


def train(folder: Path, tracker: trackers.Tracker, progress: Silent | None = None) -> dict[str, torch.Tensor]:
    """Two epochs of 60 steps of a linear layer."""
    rng = np.random.default_rng(0)
    data = InMemory(rng.integers(0, 256, (120, 4, 4, 1), np.uint8), rng.integers(0, 2, 120), {}, ["a", "b"])
    how = Preprocessing(size=(4, 4), channels=1, color="L", mean=(0.5,), std=(0.5,), decoder="none")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    def losses(batch: Batch) -> Losses:
        return {"ce": nn.functional.cross_entropy(net(batch.images), batch.labels)}

    folder.mkdir(exist_ok=True)
    plan = Train(epochs=2, batch=2, lr=0.05, precision="fp32")
    told = trackers.Under("fp32", tracker)
    Trainer(data, how, plan, 0, folder, folder / "log.jsonl", progress or Silent(), tracker=told).run(
        Stage("student", net, losses)
    )
    return net.state_dict()


def test_a_resumed_training_shows_what_an_unbroken_one_does(tmp_path: Path) -> None:
    for name, breaks in (("straight", ()), ("broken", (55, 50, 10))):
        for after in (*breaks, None):
            with trackers.telling(recipe(), tmp_path / name, pytest.fail, True) as tracker:
                if after is None:
                    train(tmp_path / name, tracker)
                    continue
                with pytest.raises(KeyboardInterrupt):
                    train(tmp_path / name, tracker, Interrupting(after))
    one, other = (scalars(tmp_path / name / "log/tensorboard/fp32/student") for name in ("straight", "broken"))
    timed = [tag for tag in one if "images_per_second" in tag]
    assert {"ce", "loss", "lr", "steps/loss", "steps/lr", *timed} <= one.keys() == other.keys()
    assert len(timed) == 2
    assert all(one[tag] == other[tag] for tag in one if tag not in timed)
    assert all([s for s, _ in one[tag]] == [s for s, _ in other[tag]] for tag in timed)
    assert [step for step, _ in one["loss"]] == [60, 120]
    running = [step for step, _ in one["steps/loss"]]
    assert running
    assert running == sorted(set(running))
    lines = [json.loads(line)["loss"] for line in (tmp_path / "broken/log.jsonl").read_text().splitlines()]
    assert [value for _, value in other["loss"]] == [float(np.float32(loss)) for loss in lines]


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(tiny.recipe(Path("nowhere"), {"name": "kd"}, **changes))


def test_trackers_change_no_bit_and_leave_none_of_their_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    tracker = trackers.open_tracker(["tensorboard"], tmp_path, "run", pytest.fail)
    with_one = train(tmp_path / "told", tracker)
    tracker.close()
    assert threading.active_count() == before
    without = train(tmp_path / "untold", trackers.NONE)
    assert all(torch.equal(with_one[key], without[key]) for key in without)


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(tensorboard, "_next_file", lambda folder: io.FileIO("/dev/full", "w"))
    tracker = trackers.open_tracker(["tensorboard"], tmp_path, "run", said.append)
    train(tmp_path / "run", tracker)
    tracker.close()
    assert said == ["tensorboard is told no more of this training: [Errno 28] No space left on device."]
    assert (tmp_path / "run" / "student.safetensors").exists()


def test_one_that_fails_is_let_go_and_the_others_are_told_on(tmp_path: Path) -> None:
    said: list[str] = []
    deaf = Deaf()
    board = trackers.open_tracker(["tensorboard"], tmp_path, "run", pytest.fail)
    both = trackers.Several({"deaf": deaf, "tensorboard": board}, said.append)
    for step in (1, 2, 3):
        both.tell("student", step, {"loss": 1.5})
    both.close()
    assert said == ["deaf is told no more of this training: no such store."]
    assert deaf.asked == 1
    assert scalars(tmp_path / "tensorboard" / "student") == {"loss": [(1, 1.5), (2, 1.5), (3, 1.5)]}


def test_without_tensorboard_one_sentence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    said: list[str] = []
    tracker = trackers.open_tracker(["tensorboard"], tmp_path, "run", said.append)
    tracker.tell("student", 1, {"loss": 1.0})
    tracker.close()
    (sentence,) = said
    assert sentence.startswith("track: [tensorboard] needs tensorboard, which is not installed: the run's log")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy"])
def test_mlflow_that_is_asked_for_and_missing_is_told_before_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=missing) as caught:
        begin("omniglot", ("track=[mlflow]",), tmp_path / "run", False)
    assert "[mlflow]" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_speaks(tmp_path: Path) -> None:
    with trackers.telling(recipe(), tmp_path, pytest.fail, first=False) as tracker:
        tracker.tell("student", 1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
