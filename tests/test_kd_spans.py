"""Where the time goes, on a clock that the tests move by hand: every moment is charged once, to the innermost span."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kd2edge.data import InMemory
from kd2edge.kd import advice, devices, net, spans, timers
from kd2edge.kd.advice import About, Profile
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.spans import NAMES, Spans
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.schema import NetSpec, Preprocessing, Train
from tests import tiny

pytestmark = pytest.mark.kd


class Hand(timers.Timer):
    """A clock in seconds that goes when it is told to, and of which `behind` marks have not happened yet."""

    def __init__(self) -> None:
        self.now, self.behind, self.waited = 0.0, 0, False
        self.marks: list[float] = []

    def mark(self) -> int:
        self.marks.append(self.now)
        return len(self.marks) - 1

    def happened(self, mark: int) -> bool:
        return self.waited or mark < len(self.marks) - self.behind

    def seconds(self, one: int, other: int) -> float:
        assert self.happened(one)
        assert self.happened(other)
        return self.marks[other] - self.marks[one]

    def wait(self) -> None:
        self.waited = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(timers, "of", lambda device: hand)
    return hand


class Lasting(nn.Module):
    """A layer that takes so many seconds."""

    def __init__(self, clock: Hand, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.clock, self.seconds, self.inner = clock, seconds, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds
        return x if self.inner is None else self.inner(x)


def steps(measured: Spans, clock: Hand, count: int, learner: nn.Module, teacher: nn.Module) -> None:
    """Each of 20 s, and of 2 more than that the first time."""
    x = torch.zeros(1)
    for step in range(count):
        with measured.of("data"):
            clock.now += 1 if step else 3
        with measured.of("augment"):
            clock.now += 2
        with measured.of("loss"):
            clock.now += 0.5
            teacher(x)
            clock.now += 0.25
            learner(x)
            clock.now += 0.25
        with measured.of("backward"):
            clock.now += 4
        with measured.of("optimizer"):
            clock.now += 1
        clock.now += 2


@pytest.mark.parametrize("behind", [0, 3, 10_000])
def test_every_moment_is_charged_once(clock: Hand, behind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a GPU is behind the host by so many marks; the first step is told apart."""
    monkeypatch.setattr(spans, "FOLD", 8)
    clock.behind = behind
    teacher = Lasting(clock, 2, Lasting(clock, 4))
    student = Lasting(clock, 1, Lasting(clock, 2))
    measured = Spans()
    with measured.attach([teacher], nn.ModuleDict({"student": student}), About(name="student", batch=32), "fp32"):
        steps(measured, clock, 4, student, teacher)
    (found,) = measured.table()
    per_step = {"data": 1, "augment": 2, "teacher": 6, "student": 3, "loss": 1, "backward": 4, "optimizer": 1}
    expected = {
        **dict.fromkeys(NAMES, 0.0),
        **per_step,
        "else": 2 + 2 / 3,
    }  # what follows the first step is not its own
    assert found.ms == pytest.approx({name: 1000 * seconds for name, seconds in expected.items()})
    assert (found.stage, found.steps, found.first_step_seconds) == ("fp32: student", 3, 20)
    assert found.images_per_second == pytest.approx(32 * 3 / 62)
    assert math.isclose(sum(found.share.values()), 1)


def test_hooks_are_gone_afterwards_and_nothing_is_measured(clock: Hand) -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    measured = Spans()
    with measured.attach([], student):
        assert student._forward_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    marks = len(clock.marks)
    with measured.of("data"):
        student(torch.zeros(1, 2))
    assert len(clock.marks) == marks
    assert measured.table() == []  # it made no step


def test_what_validation_asks_of_the_nets_is_not_theirs(clock: Hand) -> None:
    student = Lasting(clock, 1, Lasting(clock, 2))
    measured = Spans()
    with measured.attach([], student):
        steps(measured, clock, 2, student, Lasting(clock, 0))
        with measured.of("validation"):
            student(torch.zeros(1))
            clock.now += 4
        clock.now += 5
    (found,) = measured.table()
    told = {name: found.ms[name] for name in ("student", "validation", "else")}
    assert told == pytest.approx({"student": 3000, "validation": 7000, "else": 9000})


def test_a_forward_that_fails_leaves_its_span(clock: Hand) -> None:
    class Faulty(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError

    measured, faulty = Spans(), Faulty()
    with measured.attach([], nn.ModuleList([faulty, net := Lasting(clock, 1)])):
        with pytest.raises(ValueError), measured.of("loss"):
            faulty(torch.zeros(1))
        steps(measured, clock, 3, net, Lasting(clock, 0))
    assert measured.table()[0].ms["student"] == pytest.approx(1000)


def test_what_is_compiled_is_timed_from_outside(clock: Hand) -> None:
    """Its hooks would be part of what is compiled."""
    student = Lasting(clock, 1, Lasting(clock, 2))
    compiled: Callable[..., Any] = student._call_impl
    student._compiled_call_impl = compiled
    measured = Spans()
    with measured.attach([], student):
        assert not student._forward_hooks
        assert not any(part._forward_hooks for part in student.modules())
        steps(measured, clock, 3, student, Lasting(clock, 0))
    assert student._compiled_call_impl is compiled
    assert measured.table()[0].ms["student"] == pytest.approx(3000)


def train(folder: Path, measured: Spans) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    data = InMemory(rng.integers(0, 256, (24, 16, 16, 3), np.uint8), rng.integers(0, 3, 24), {}, ["a", "b", "c"])
    how = Preprocessing(size=(16, 16), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, decoder="none")
    torch.manual_seed(0)
    nets = [net.build(NetSpec.model_validate(tiny.net()), net.Shape(3, (16, 16), 3)) for _ in range(2)]
    student, teacher = nets[0], net.freeze(nets[1])
    student.neck = nn.Sequential(student.neck, nn.Dropout(0.3))

    def losses(batch: Batch) -> Losses:
        with torch.no_grad():
            taught = teacher(batch.images).logits
        return {"mse": nn.functional.mse_loss(student(batch.images).logits.float(), taught.float())}

    folder.mkdir()
    plan = Train.model_validate({"epochs": 2, "batch": 8, "lr": 0.05, "augment": {"flip": True, "crop_padding": 2}})
    trainer = Trainer(data, how, plan, 0, folder, folder / "log.jsonl", Silent(), spans=measured)
    trainer.run(Stage("student", student, losses, frozen=(teacher,)))
    return student.state_dict()


def test_measuring_changes_no_bit(tmp_path: Path) -> None:
    measured = Spans()
    one, other = train(tmp_path / "measured", measured), train(tmp_path / "not", spans.NONE)
    assert all(torch.equal(one[key], other[key]) for key in one)
    (found,) = measured.table()
    assert (found.stage, found.steps) == ("measured: student", 5)
    worked = ("data", "augment", "teacher", "student", "loss", "backward", "optimizer", "saving", "else")
    assert all(found.ms[name] > 0 for name in worked)
    assert (spans.NONE.table(), spans.NONE.advice()) == ([], [])


def profile(ms: float = 100.0, **share: float) -> Profile:
    """A stage whose nets take what is left."""
    given = {**dict.fromkeys((*NAMES, "else"), 0.0), **share}
    left = 1 - sum(share.values())
    given["backward"] += left
    return Profile("fp32", 9, 1.0, 10.0, {name: ms * value for name, value in given.items()}, given)


def about(**changes: Any) -> About:
    plan = Train.model_validate({"epochs": 1, "lr": 0.1, **changes.pop("plan", {})})
    return About(plan=plan, batch=64, size=(32, 32), precision="bf16", **changes)


CUDA = torch.device("cuda")
CASES: list[tuple[About, Profile, str]] = [
    (about(held=False), profile(data=0.3), r"30% is waiting for images: .*data.name=webdataset"),
    (about(plan={"augment": {"affine": {}}}), profile(augment=0.25), r"25% is augmentation: .*train.augment.affine"),
    (about(recallable=True), profile(teacher=0.4), r"40% is the teacher: nothing is augmented.*teacher.remember=true"),
    (
        about(recallable=True, plan={"augment": {"flip": True}}),
        profile(teacher=0.4),
        r"teacher.remember=true keeps its answers for later runs",
    ),
    (about(plan={"compile": "off"}), profile(), ""),
    (about(device=CUDA), profile(ms=4.0), r"a step is 4.0 ms, mostly starting kernels: train.compile=graphs"),
    (about(device=CUDA, compiled="graphs"), profile(ms=4.0), ""),
    (about(), profile(optimizer=0.3), r"30% is the optimizer: .*train.batch"),
    (about(), profile(waiting=0.2), r"20% is waiting for other processes: .*train.batch"),
    (about(), profile(**{"else": 0.2}), r"20% is none of the above, so a step of 64 images is small: .*train.batch"),
    (about(plan={"accumulate": 2}), profile(**{"else": 0.2}), r"compute a step in fewer parts \(train.accumulate\)"),
    (about(held=True), profile(data=0.3), ""),
    (about(remember=True, recallable=True), profile(teacher=0.4), ""),
    (about(held=False), profile(data=0.1, augment=0.1, teacher=0.2, optimizer=0.1, **{"else": 0.1}), ""),
]


@pytest.mark.parametrize(("stage", "found", "expected"), CASES)
def test_advice_follows_from_figures(
    stage: About, found: Profile, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "precision", lambda wanted, device: "bf16")
    told = advice.advice(stage, found)
    assert len(told) == (1 if expected else 0)
    assert all(sentence.startswith("fp32: ") for sentence in told)
    if expected:
        (sentence,) = told
        assert re.search(expected, sentence), sentence


@pytest.mark.parametrize(("quickest", "count"), [("bf16", 1), ("fp32", 0)])
def test_a_quicker_precision_is_named_where_the_machine_has_it(
    quickest: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "precision", lambda wanted, device: quickest)
    stage = About(size=(32, 32), precision="fp32")
    told = advice.advice(stage, profile())
    assert len([sentence for sentence in told if "train.precision=auto" in sentence]) == len(told) == count


@pytest.mark.parametrize(("compiled", "count"), [("off", 1), ("on", 0)])
def test_compilation_is_named_for_large_images(compiled: str, count: int) -> None:
    told = advice.advice(About(size=(112, 112), precision="bf16", compiled=compiled), profile())
    assert [sentence for sentence in told if "at 112 x 112 pixels: see whether train.compile=on" in sentence] == told
    assert len(told) == count
