"""What a bench keeps: cells that are whole and of the same circumstances or none at all, in a folder of its own."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.artifact import Artifact
from kd2edge.data import InMemory, Split
from kd2edge.edge import devices, jobs
from kd2edge.edge.kept import CELL, IMAGES, LOCK, kept_in
from kd2edge.edge.launch import Died
from kd2edge.edge.worker import Answer, Job
from kd2edge.errors import UserError
from kd2edge.schema import BatchRange
from tests.machine import DEVICE, JOBS, SUITE, Machine, broken_off, measured, on, sittings, told, two_nets
from tests.test_edge_bench import CLASSES, EACH, TARGET, Patterns, classifier, linear

Items = list[tuple[str, Artifact]]


@pytest.fixture(autouse=True)
def same_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fingerprint", lambda: DEVICE)


@pytest.fixture
def items(tmp_path: Path) -> Items:
    return two_nets(tmp_path)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "cells"


def spoilt(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content if how == "flipped" else content[:-1])


@pytest.mark.parametrize("how", ["flipped", "torn", "gone"])
@pytest.mark.parametrize("name", [CELL, "outputs.npy", "samples.npy"])
def test_a_damaged_cell_is_measured_anew(
    how: str, name: str, items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Machine(), monkeypatch)
    unbroken = measured(items)
    broken_off(items, room, JOBS, monkeypatch)
    spoilt(sorted(room.glob(f"*/{name}"))[0], how)
    rest = on(Machine(), monkeypatch)
    assert told(measured(items, room)) == told(unbroken)
    assert len(rest.jobs) in (2, 3)  # the last, the damaged one and, of a round, its neighbour


def test_a_cell_in_the_place_of_another_is_not_taken_for_it(
    items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Machine(), monkeypatch)
    unbroken = measured(items)
    broken_off(items, room, JOBS, monkeypatch)
    first, second = sorted(path.parent for path in room.glob("*/samples.npy"))[:2]
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert told(measured(items, room)) == told(unbroken)


class Darker(Patterns):
    def split(self, name: str) -> Split:
        return InMemory(self.images // 2, self.labels, {}, [str(label) for label in range(CLASSES)])


def altered(items: Items) -> Items:
    (role, model), other = items
    return [(role, linear(model.path, classifier() * 2)), other]


LONGER = SUITE.model_copy(update={"latency": SUITE.latency.model_copy(update={"seconds": 0.06})})
TIMED = 2 * (3 + 1)
CHANGES: dict[str, tuple[Callable[[Items], Items], dict[str, Any], int]] = {
    "a file": (altered, {}, JOBS // 2 + 3),  # its own jobs, and the rounds of its neighbour
    "the images": (list, {"source": Darker()}, JOBS),
    "the target": (list, {"target": TARGET.model_copy(update={"batch": BatchRange(max=16)})}, JOBS),
    "the protocol": (list, {"suite": LONGER}, TIMED - 2),  # of the sweep nothing has changed
    "another row": (lambda items: items[:1], {}, 0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_measured_under_other_circumstances_is_not_used(
    what: str, items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, options, done = CHANGES[what]
    on(Machine(), monkeypatch)
    with kept_in(room) as first:  # interrupted before its report was written
        measured(items, kept=first)
    changed = change(items)
    unbroken = measured(changed, **options)
    machine = on(Machine(), monkeypatch)
    assert told(measured(changed, room, **options)) == told(unbroken)
    assert len(machine.jobs) == done


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "another"},
        {"governor": "powersave"},
        {"os": "a newer kernel"},
        {"max_mhz": "1200"},
        {"driver": "550.54.15"},
        {"l4t": "R36"},
        {"power_mode": "15W"},
    ],
)
def test_what_another_device_measured_is_not_used(
    change: dict[str, str], items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(items, room, JOBS, monkeypatch)
    monkeypatch.setattr(devices, "fingerprint", lambda: DEVICE | change)
    machine = on(Machine(), monkeypatch)
    assert sittings(measured(items, room)) == {1}
    assert len(machine.jobs) == JOBS


def test_what_another_version_measured_is_not_used(items: Items, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(items, room, JOBS, monkeypatch)
    versions = devices.versions()
    monkeypatch.setattr(devices, "versions", lambda: versions | {"onnxruntime": "0"})
    machine = on(Machine(), monkeypatch)
    measured(items, room)
    assert len(machine.jobs) == JOBS


BUILDING = """
import itertools, os
from kd2edge.edge.fake import FakeSession
from kd2edge.edge.session import Backend

class Building(Backend):
    name = "building"
    def available(self):
        return None
    def build(self, onnx, target, out):
        out.write_bytes(onnx.read_bytes() + os.urandom(8))  # no two builds are alike
        return out
    def open(self, path, target):
        return FakeSession()
"""


def test_an_engine_is_not_built_again(
    items: Items, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "building.py"
    plugin.write_text(BUILDING)
    target = TARGET.model_copy(update={"backend": str(plugin)})
    broken_off(items, room, 8, monkeypatch, target=target)
    engines = {path.read_bytes() for path in room.glob("*/engine")}
    assert len(engines) == 2
    rest = on(Machine(), monkeypatch)
    ran: dict[bool, set[bytes]] = {False: set(), True: set()}

    def watched(job: Job) -> Answer:
        ran[job.target.batch.min == job.target.batch.max].add(job.model.read_bytes())
        return rest(job)

    monkeypatch.setattr(jobs, "run_job", watched)
    report = measured(items, room, target=target)
    assert ran[False] == engines
    assert len(ran[True] - engines) == 2  # the sweep's batch has engines of its own
    assert len(rest.jobs) == JOBS - 7 + 1
    assert [row.numbers["size"].value for row in report.rows] == [
        pytest.approx((made.path.stat().st_size + 8) / 2**20) for _, made in items
    ]
    plugin.write_text(BUILDING + "# another one\n")
    broken_off(items, room, 2, monkeypatch, target=target)
    assert not engines & {path.read_bytes() for path in room.glob("*/engine")}


def test_a_fault_that_a_model_was_told_of_is_kept_and_a_process_that_died_is_tried_again(
    items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Machine):
        def __call__(self, job: Any) -> Answer:
            answer = super().__call__(job)
            if job.model.name != "int8.onnx":
                return answer
            return Died(fault="it was killed") if self.dies_at else Answer(fault="it is refused")

    on(Refusing(dies_at=99), monkeypatch)
    rows = {row.role: row for row in measured(items).rows}
    assert rows["int8"].faults == ("it was killed",)
    on(Refusing(dies_at=6), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        measured(items, room)
    refusing = on(Refusing(), monkeypatch)
    report = measured(items, room)
    assert [row.faults for row in report.rows] == [(), ("it is refused",)]
    assert sum(job.model.name == "int8.onnx" for job in refusing.jobs) == 1  # it died before, so it is asked again
    on(Refusing(), monkeypatch)
    with kept_in(room) as first:
        measured(items, kept=first)
    again = on(Machine(), monkeypatch)
    assert measured(items, room).rows[1].faults == ("it is refused",)
    assert not again.jobs


def test_nothing_is_left_of_a_bench_that_measured_nothing_and_only_cells_of_one_that_did(
    items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(items, room, 1, monkeypatch)
    assert not room.exists()
    broken_off(items, room, 4, monkeypatch)
    assert {path.name for path in room.iterdir() if not (path / CELL).is_file()} == {LOCK}
    assert not (room / IMAGES).exists()
    assert len(list(room.iterdir())) == 1 + 3


def test_what_a_file_told_that_was_replaced_meanwhile_is_neither_kept_nor_told(
    items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job 7 is a round of the first row: what it measured may be either file, and its cell would say the old one."""

    class Replacing(Machine):
        def __call__(self, job: Job) -> Answer:
            if len(self.jobs) == 6:
                altered(items)
            return super().__call__(job)

    replacing = on(Replacing(), monkeypatch)
    with kept_in(room) as first:
        rows = measured(items, kept=first).rows
        assert len(list(room.glob(f"*/{CELL}"))) == len(replacing.jobs) - 1
    (fault,) = rows[0].faults
    assert fault.endswith("was replaced while it was measured")
    assert rows[1].faults == ()
    assert not any(number.usable for name, number in rows[0].numbers.items() if name.startswith("latency"))


def test_a_disk_that_fills_up_within_a_process_is_no_fault_of_its_model(items: Items, room: Path) -> None:
    """For real: files may grow to the images' size and not to that of twice as many outputs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    wide = linear(items[0][1].path, np.ones((64, 40)), task="verification", output="embedding")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (CLASSES * EACH * 64 + 512, before[1]))
        with pytest.raises(UserError, match=r"outputs\.npy could not be written: File too large"):
            measured([("fp32", wide)], room)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not room.exists()
