"""The contenders of the training benchmark train alike to float order, in turns; the tables say what was measured."""

import contextlib
import importlib.util
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from benchmarks.peers.training import curves, images, result, table
from benchmarks.peers.training.contenders import kd2edge_trainer, reference
from benchmarks.peers.training.job import Blocks, Done, Job
from benchmarks.peers.training.result import OTHER_SEED, OURS, REFERENCE, TORCHDISTILL, Result, Side, smoothed
from benchmarks.peers.training.subjects import SUBJECTS, taught
from benchmarks.peers.training.turns import Contender, Failed, ended, in_turns
from kd2edge.kd import depthwise, devices, heap, quick_teacher, schedule
from kd2edge.kd.activations import PReLU
from kd2edge.kd.method import Batch

pytestmark = pytest.mark.kd
STEPS = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with few images of noise, where the benchmark would keep its own."""
    folder, random = tmp_path_factory.mktemp("peers"), np.random.default_rng(0)
    for kind, side, classes in (("cifar", 32, 10), ("faces", 112, 40)):
        np.save(folder / f"{kind}-noise-images.npy", random.integers(0, 256, (320, side, side, 3), np.uint8))
        np.save(folder / f"{kind}-noise-labels.npy", np.arange(320) % classes)
    return folder


def job(work: Path, subject: str, contender: str, **changes: object) -> Job:
    made = images.prepare(SUBJECTS[subject], None, work)
    fields = {
        "subject": subject,
        "contender": contender,
        "images": made.images,
        "labels": made.labels,
        "classes": 10 if made.images.name.startswith("cifar") else 40,
        "folder": work / contender,
        "workers": 1,
        "augment": False,
        "precision": "fp32",
    }
    return Job.model_validate({**fields, **changes})


class Counted(Blocks):
    """A block of `STEPS` steps in this very process."""

    def __init__(self) -> None:
        super().__init__(lambda **told: None, "cpu")

    def begin(self) -> None:
        if len(self.losses) == STEPS:
            raise Done


def losses(contender: Any, given: Job) -> list[float]:
    blocks = Counted()
    with pytest.raises(Done):
        contender.train(given, blocks)
    return [float(loss) for loss in blocks.losses]


@pytest.mark.parametrize("subject", ["kd", "th_kd", "sim_kd"])
def test_the_papers_loop_and_ours_lose_the_same(subject: str, work: Path) -> None:
    """Own formulas, own loader, own optimiser's call; unaugmented and in fp32 only the order of sums differs."""
    ours = losses(kd2edge_trainer, job(work, subject, "kd2edge_trainer", folder=work / subject, changed="compile"))
    theirs = losses(reference, job(work, subject, "reference", workers=0))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours == pytest.approx(theirs, rel=5e-3)
    assert len({*theirs}) == STEPS


def test_arcface_is_the_same_loss_by_both_formulas(work: Path) -> None:
    method = taught(job(work, "arcface", "reference"))
    (stage,) = method.stages()
    made, labels = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    found = reference.LOSSES["arcface"](method)(made, labels)
    assert found.item() == pytest.approx(stage.losses(Batch(made, labels))["ce"].item(), rel=1e-5)


def test_what_the_ablation_leaves_out_is_away_and_comes_back(work: Path) -> None:
    subject, convolution = SUBJECTS["kd"], torch.nn.Conv2d(3, 4, 3)
    changes = kd2edge_trainer.CHANGES
    for change, away in ((contextlib.nullcontext, False), (changes["channels_last"], True)):
        with change(), devices.placed(torch.device("cpu"), convolution):
            assert convolution.weight.is_contiguous() == away
    for change, fused in ((contextlib.nullcontext, True), (changes["fused"], None)):
        with change():
            assert schedule.optimizer(convolution, subject.train()).param_groups[0]["fused"] is fused
    (stage,) = taught(job(work, "kd", "kd2edge_trainer", precision="auto")).stages()
    teacher = stage.frozen, stage.learner
    for change, done in ((contextlib.nullcontext, True), (changes["quick_teacher"], False)):
        with change(), quick_teacher.quickened(*teacher, torch.zeros(2, 3, 32, 32), "fp32") as told:
            assert (told is not None) == done
    with changes["fused_teacher"](), quick_teacher.quickened(*teacher, torch.zeros(2, 3, 32, 32), "fp32") as told:
        assert "folded" in str(told)
        assert "fused" not in str(told)
    slow = torch.nn.Conv2d(4, 4, 3, 2, groups=4)
    for change, exact in ((contextlib.nullcontext, True), (changes["depthwise"], False)):
        with change(), depthwise.in_float32(torch.device("cpu"), "bf16", slow):
            assert ("_conv_forward" in vars(slow)) == exact
    for change, own in ((contextlib.nullcontext, True), (changes["prelu"], False)):
        with change():
            name = PReLU(3).train()(torch.ones(1, 3, 2)).grad_fn.name()
            assert ("_Trained" in name) == own
    with changes["heap"](), patch.object(heap, "_set") as set_, heap.kept():
        set_.assert_not_called()
    read = {
        changed: kd2edge_trainer._data(job(work, "kd", "kd2edge_trainer", changed=changed), subject).read(np.arange(8))
        for changed in (None, "tensor_augmentation")
    }
    assert {(images.shape, images.dtype) for images in read.values()} == {((8, 32, 32, 3), np.dtype(np.uint8))}
    assert (read[None] != read["tensor_augmentation"]).any()


def test_contenders_take_turns_and_a_stopped_one_does_nothing(work: Path) -> None:
    names = ("one", "other")
    contenders = {name: Contender(job(work, "kd", "reference", workers=0), threads=1) for name in names}
    with ended(contenders):
        assert {_state(contender) for contender in contenders.values()} == {"T"}
        found = in_turns(contenders, turns=2, block=1)
        assert {_state(contender) for contender in contenders.values()} == {"T"}
    assert [len(answers) for answers in found.values()] == [2, 2]
    one, other = ([loss for answer in answers for loss in answer["losses"]] for answers in found.values())
    assert one == other
    assert all(answer["seconds"] > 0 for answers in found.values() for answer in answers)
    assert all(contender._process.returncode is not None for contender in contenders.values())


def _state(contender: Contender) -> str:
    """As the kernel has it: T is stopped by a signal."""
    return Path(f"/proc/{contender._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(importlib.util.find_spec("torchdistill") is not None, reason="torchdistill is installed")
def test_a_contender_that_is_missing_says_so(work: Path) -> None:
    with pytest.raises(Failed, match="not installed: No module named 'torchdistill'"):
        Contender(job(work, "kd", "torchdistill_box"), threads=1)


def test_a_contender_that_cannot_run_says_why(work: Path) -> None:
    with pytest.raises(Failed, match=r"FileNotFoundError: .*gone\.npy"):
        Contender(job(work, "kd", "reference", labels=work / "gone.npy"), threads=1)


def side(name: str, ms: float, losses: list[float], **more: object) -> Side:
    turns = [ms * (1 + 0.01 * (turn % 3 - 1)) for turn in range(12)]
    return Side.model_validate(
        {"name": name, "ms": turns, "losses": losses, "first_step_s": 1.0, "start_s": 1.0, **more}
    )


def made() -> Result:
    """A reference of 100 ms, and kd2edge of 40 ms whose compiled step takes 30 and starts 5 s later."""
    falling = [3 - step / 100 for step in range(100)]
    loader = {"loader": "a loader"}
    return Result(
        subject="kd",
        about="KD",
        command="python -m benchmarks.peers.training",
        created="2026-11-21T00:00:00Z",
        batch=64,
        conditions={"images": "noise", "teacher": "none", "threads": 2, "turns": 12, "steps_in_a_turn": 8, "load": 0.1},
        device={"cpu": "a processor"},
        versions={"torch": "2"},
        sides=(
            side(OURS, 40, [loss + 0.01 for loss in falling], notes={"precision": "bf16"}),
            side(REFERENCE, 100, falling, notes=loader),
            Side(name=TORCHDISTILL, fault="not installed: pip | it"),
            side(OTHER_SEED, 100, [loss - 0.04 for loss in falling], notes=loader),
        ),
        ablation=(side(OURS, 40, []), side("bf16", 60, [], beside=[48.0] * 12), side("compiled", 30, [], start_s=6.0)),
    )


def test_the_table_has_ratios_curves_faults_and_what_compiling_pays(tmp_path: Path) -> None:
    result.write(made(), "cpu", tmp_path)
    assert result.read(result.path_of("kd", "cpu", tmp_path)) == made()
    text = table.markdown(tmp_path)
    rows = {line.split(" | ")[1]: line for line in text.splitlines() if line.count(" | ") == 6}
    assert "| 40.0 | 1,600 |" in rows["kd2edge, its defaults"]
    assert rows["kd2edge, its defaults"].endswith("| 0.25 |")
    assert "| 100.0 | 640 | 2.50 (" in rows["the papers' loop, fp32"]
    assert "not installed: pip / it" in rows["torchdistill"]
    assert "| in fp32 | 1.25 (" in text
    assert "| compile: on | 0.75 (" in text
    assert "pays after 500 steps |" in text


def test_curves_are_smoothed_and_drawn(tmp_path: Path) -> None:
    assert smoothed(tuple(float(value) for value in range(30))).tolist() == pytest.approx([12, 13, 14, 15, 16, 17])
    found = made().agreement(OURS)
    assert found is not None
    assert [found.distance, found.seeds_apart] == pytest.approx([0.01, 0.04])
    result.write(made(), "cpu", tmp_path)
    (figure,) = curves.write(tmp_path, tmp_path)
    assert figure.name == "curves-cpu.svg"
    assert figure.read_text().count("<path") > 4


def test_noise_is_of_every_class_and_said(tmp_path: Path) -> None:
    found = images.prepare(SUBJECTS["arcface"], None, tmp_path)
    assert len(np.unique(np.load(found.labels))) == found.classes == 4038
    assert found.about == "5,120 images of noise of 4,038 classes, decoded beforehand"


def test_the_readmes_tables_are_those_of_the_committed_results() -> None:
    text = table.README.read_text(encoding="utf-8")
    assert table.put(text) == text, "run `python -m benchmarks.peers.training --table`"
