"""A training that was killed or stopped ends in the very bits of one that was not, with all that makes it quick on."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from kd2edge.data import open_source
from kd2edge.errors import Diverged
from kd2edge.kd import checkpoint, net, train
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.train import TELL_EVERY, Trainer
from kd2edge.progress import Silent
from kd2edge.schema import NetSpec, Train
from tests import tiny
from tests.test_kd_train import Interrupting, Job, log

pytestmark = pytest.mark.kd
FAST: list[dict[str, object]] = [
    {"precision": "fp16"},
    {"precision": "bf16", "accumulate": 3, "ema": 0.9, "clip": 0.5},
    {"precision": "fp16", "accumulate": 2, "ema": 0.9, "clip": 0.5, "optimizer": "adamw", "lr": 0.01},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("images"))


class Killed(RuntimeError):
    """What no training handles."""


class Killing(Silent):
    """Ends the training after so many steps, with nothing saved on the way out."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        if figures:
            self.left -= 1
            if self.left == 0:
                raise Killed


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("train", FAST)
@pytest.mark.parametrize("after", [3, 7])
def test_stopped_and_resumed_is_bit_exact(folder: Path, tmp_path: Path, after: int, train: dict[str, object]) -> None:
    straight = Job(folder, tmp_path / "straight", **train).train()
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "resumed", **train).train(Interrupting(after))
    assert same(straight, Job(folder, tmp_path / "resumed", **train).train())
    assert log(tmp_path / "straight") == log(tmp_path / "resumed")


def test_killed_and_resumed_is_bit_exact_from_a_checkpoint_within_an_epoch(folder: Path, tmp_path: Path) -> None:
    """Saved after each step: what saves by time changes nothing but where one goes on."""
    plan = FAST[-1]
    straight = Job(folder, tmp_path / "straight", **plan).train(save_seconds=1e9)
    for after in (3, 5, 2):
        with pytest.raises(Killed):
            Job(folder, tmp_path / "resumed", **plan).train(Killing(after), save_seconds=0.0)
    where = checkpoint.read(tmp_path / "resumed" / "student.partial.safetensors")
    assert (where["epoch"], where["step"]) == (1, 2)  # 2 + 4 + 1 steps: that in which it is killed is not saved
    assert same(straight, Job(folder, tmp_path / "resumed", **plan).train(save_seconds=0.0))
    assert log(tmp_path / "straight") == log(tmp_path / "resumed")


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are looked at as seldom as on a GPU."""
    monkeypatch.setattr(train, "NEAR", ())


def test_looking_at_losses_seldom_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = Job(folder, tmp_path / "often", **FAST[1]).train()
    monkeypatch.setattr(train, "NEAR", ())
    assert same(often, Job(folder, tmp_path / "seldom", **FAST[1]).train())
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "resumed", **FAST[1]).train(Interrupting(8))
    assert same(often, Job(folder, tmp_path / "resumed", **FAST[1]).train())
    assert log(tmp_path / "often") == log(tmp_path / "seldom") == log(tmp_path / "resumed")


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("save_seconds", [0.0, 600.0])
def test_a_nan_that_is_looked_at_late_is_told_as_of_its_step_and_never_saved(
    folder: Path, tmp_path: Path, save_seconds: float
) -> None:
    with pytest.raises(Diverged, match=r"stage student, epoch 1, step 2 \(ce = "):
        Job(folder, tmp_path / "run", lr=1e30).train(save_seconds=save_seconds)
    partial = tmp_path / "run" / "student.partial.safetensors"
    assert partial.exists() == (save_seconds == 0)
    if save_seconds == 0:
        kept = checkpoint.read(partial)
        assert kept["step"] == 1
        assert all(tensor.isfinite().all() for tensor in kept["learner"].values())


@pytest.mark.parametrize("slow", [False, True])
def test_nothing_is_saved_within_an_epoch_before_it_is_time(folder: Path, tmp_path: Path, slow: bool) -> None:
    with pytest.raises(Killed):
        Job(folder, tmp_path / "run").train(Killing(4), save_seconds=0.0 if slow else 600.0)
    assert (tmp_path / "run" / "student.partial.safetensors").exists() == slow


def test_a_scale_that_has_moved_is_found_again(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Job(folder, tmp_path / "run", precision="fp16").train(Killing(12), save_seconds=0.0)
    kept = checkpoint.read(tmp_path / "run" / "student.partial.safetensors")["scaler"]
    assert kept["_growth_tracker"] > 0
    assert kept["scale"] == 65536.0 * 0.5 ** (11 - kept["_growth_tracker"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # that the compiler looks at, whatever it is given
def test_compiled_nets_resume_bit_for_bit_too(folder: Path, tmp_path: Path) -> None:
    plan: dict[str, object] = {"precision": "bf16", "compile": "on", "ema": 0.9, "accumulate": 2, "epochs": 2}
    straight = Job(folder, tmp_path / "straight", **plan).train()
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "resumed", **plan).train(Interrupting(7))
    assert same(straight, Job(folder, tmp_path / "resumed", **plan).train())
    plain = Job(folder, tmp_path / "plain", **{**plan, "compile": "off"}).train()
    assert plain.keys() == straight.keys()
    assert log(tmp_path / "straight")[0]["compile"] == "on"


class Recorder:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, int, str], float] = {}

    def rewind(self, stage: str, step: int) -> None:
        self.told = {key: value for key, value in self.told.items() if key[0] != stage or key[1] <= step}

    def tell(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            assert (stage, step, name) not in self.told
            self.told[stage, step, name] = value

    def close(self) -> None:
        pass


def without_speed(told: Mapping[tuple[str, int, str], float]) -> dict[tuple[str, int, str], float]:
    return {key: value for key, value in told.items() if "images_per_second" not in key[2]}


def test_a_tracker_is_told_each_figure_once_also_of_a_training_that_was_stopped(folder: Path, tmp_path: Path) -> None:
    epochs, per_epoch = 11, 11
    plan = {"epochs": epochs, "batch": 4, "precision": "fp32"}
    straight, resumed = Recorder(), Recorder()
    Job(folder, tmp_path / "straight", **plan).train(tracker=straight)
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "resumed", **plan).train(Interrupting(53), tracker=resumed)
    Job(folder, tmp_path / "resumed", **plan).train(tracker=resumed)
    assert without_speed(straight.told) == without_speed(resumed.told)
    lines = log(tmp_path / "straight")
    for line in lines:
        step = int(str(line["epoch"])) * per_epoch
        assert straight.told["student", step, "loss"] == line["loss"]
        assert straight.told["student", step, "lr"] == line["lr"]
    steps = sorted({step for _, step, name in straight.told if name.startswith("steps/")})
    assert steps == list(range(TELL_EVERY, epochs * per_epoch + 1, TELL_EVERY))


def test_a_judge_sees_what_would_ship_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """The average after each epoch; the last is what the training ends in."""
    plan: dict[str, object] = {"ema": 0.8, "precision": "fp32"}
    unjudged = Job(folder, tmp_path / "unjudged", **plan).train()
    seen: list[dict[str, torch.Tensor]] = []
    asked: list[tuple[str, int]] = []

    def judge(stage: Stage, epoch: int) -> Mapping[str, float]:
        asked.append((stage.name, epoch))
        seen.append({name: tensor.clone() for name, tensor in stage.learner.state_dict().items()})
        return {"val_top1": 50.0 + epoch}

    judged = Job(folder, tmp_path / "judged", **plan).train(judge=judge)
    assert same(unjudged, judged)
    assert same(seen[-1], judged)
    assert asked == [("student", 1), ("student", 2), ("student", 3)]
    assert [line["val_top1"] for line in log(tmp_path / "judged")] == [51.0, 52.0, 53.0]


@pytest.mark.parametrize("at", [2, 3])
def test_who_stops_it_while_it_is_judged_is_heard_even_in_the_last_epoch(folder: Path, tmp_path: Path, at: int) -> None:
    asked: list[int] = []

    def judge(stage: Stage, epoch: int) -> Mapping[str, float]:
        asked.append(epoch)
        if len(asked) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"val_top1": 50.0 + epoch}

    plan: dict[str, object] = {"ema": 0.8, "precision": "fp32"}
    with pytest.raises(KeyboardInterrupt):
        Job(folder, tmp_path / "stopped", **plan).train(judge=judge)
    resumed = Job(folder, tmp_path / "stopped", **plan).train(judge=judge)
    assert asked == [1, 2, 3]
    straight = Job(folder, tmp_path / "straight", **plan).train(judge=lambda stage, epoch: {"val_top1": 50.0 + epoch})
    assert same(straight, resumed)
    assert log(tmp_path / "straight") == log(tmp_path / "stopped")


def taught(folder: Path, out: Path, shared: Path, progress: Silent, **train: object) -> dict[str, torch.Tensor]:
    """A student that learns a fixed net's embeddings, which are remembered."""
    source = open_source({"name": "imagefolder", "path": str(folder), "size": 16})
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(net.build(NetSpec.model_validate(tiny.net()), net.Shape(3, (16, 16), 3)))
    teacher, student = net.freeze(nets[0]), nets[1]

    def imitated(batch: Batch) -> Losses:
        known = batch.embedding
        if known is None:
            with torch.no_grad():
                known = teacher(batch.images).embedding
            assert batch.keep is not None
            batch.keep(known)
        return {"l2": (student(batch.images).embedding - known).float().square().mean()}

    plan = {"epochs": 2, "batch": 8, "lr": 0.05, "device": "cpu", "augment": {"flip": True, "crop_padding": 2}, **train}
    out.mkdir(exist_ok=True)
    how, planned = source.preprocessing(), Train.model_validate(plan)
    trainer = Trainer(source.split("train"), how, planned, 0, out, out / "log.jsonl", progress, shared, remember=True)
    trainer.run(Stage("student", student, imitated, frozen=(teacher,), taught_by=teacher))
    return student.state_dict()


@pytest.mark.parametrize("train", [{"precision": "fp32"}, {"precision": "bf16", "accumulate": 2}])
def test_what_a_teacher_said_is_known_after_a_stop(folder: Path, tmp_path: Path, train: dict[str, object]) -> None:
    asked = taught(folder, tmp_path / "asked", tmp_path / "one", Silent(), **train)
    recalled = taught(folder, tmp_path / "recalled", tmp_path / "one", Silent(), **train)
    assert list((tmp_path / "one").rglob("*.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        taught(folder, tmp_path / "stopped", tmp_path / "two", Interrupting(8), **train)
    resumed = taught(folder, tmp_path / "stopped", tmp_path / "two", Silent(), **train)
    assert same(asked, recalled)
    assert same(asked, resumed)


def test_dropout_is_another_in_each_part(folder: Path, tmp_path: Path) -> None:
    job, masks = Job(folder, tmp_path / "run", accumulate=2, epochs=1), []

    def note(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        masks.append((out == 0) & (given[0] != 0))

    job.net.neck.get_submodule("1").register_forward_hook(note)
    job.train()
    assert len(masks) == 2 * 5
    assert not torch.equal(masks[0], masks[1])
