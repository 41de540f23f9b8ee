"""No state leaks from one model of a bench to the next: in either order, and alone, each is told the same."""

import hashlib
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kd2edge.artifact import Artifact
from kd2edge.edge import bench, devices, jobs, worker
from kd2edge.edge.fake import FakeBackend, FakeSession
from kd2edge.edge.kept import kept_in
from kd2edge.edge.measure import measure
from kd2edge.edge.session import Floats
from kd2edge.report.model import Row
from kd2edge.schema import Latency, Suite, Target
from tests.machine import DEVICE, SUITE, measured, two_nets
from tests.test_edge_bench import CLASSES, TARGET, classifier, linear

Items = list[tuple[str, Artifact]]

TAKES_MS = {"fp32": (3.0, 3.1, 2.9, 3.0, 3.3), "int8": (1.0, 1.0, 1.2)}


class Clock:
    """The one clock of a machine, which goes on from one process to the next as each call takes its time."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Timed(FakeSession):
    """A call takes what its model takes, in a pattern that begins anew with each process."""

    def __init__(self, clock: Clock, model: str) -> None:
        super().__init__(dim=CLASSES)
        self.machine, self.takes = clock, cycle(TAKES_MS[model])

    def infer(self, x: Floats) -> Floats:
        self.machine.ns += round(1e6 * next(self.takes))
        return super().infer(x)


class Machine(FakeBackend):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.machine = clock

    def open(self, path: Path, target: Target) -> FakeSession:
        return Timed(self.machine, path.stem)


@pytest.fixture
def items(tmp_path: Path) -> Items:
    return two_nets(tmp_path)


def rows(items: Items, **options: Any) -> dict[str, Row]:
    return {row.role: row for row in measured(items, **options).rows}


def test_by_a_fake_clock_each_model_has_the_same_numbers_in_either_order(
    items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(devices, "fingerprint", lambda: DEVICE)
    monkeypatch.setattr(jobs, "run_job", worker.perform)
    monkeypatch.setattr(worker, "open_backend", lambda name: Machine(clock))
    monkeypatch.setattr(worker, "measure", partial(measure, clock=clock))
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter_ns=clock))
    monkeypatch.setattr(worker, "peak_memory_mib", lambda: 100.0)
    suite = SUITE.model_copy(update={"latency": Latency(warmup_ms=200, seconds=1, min_samples=662)})
    one, other = rows(items, suite=suite), rows(items[::-1], suite=suite)
    assert list(one) == list(other)[::-1]
    assert {role: row.model_dump() for role, row in one.items()} == {role: other[role].model_dump() for role in one}
    for role, item in items:
        alone = rows([(role, item)], suite=suite)[role]
        assert one[role].traces["latency_ms"] == alone.traces["latency_ms"]
        assert {name: one[role].numbers[name] for name in alone.numbers} == alone.numbers
        taken = one[role].traces["latency_ms"]
        assert set(taken) == set(TAKES_MS[role])  # none of the other's
        assert taken == sorted(taken)
        assert len(taken) == 101
        assert [taken[0], taken[50], taken[100]] == [
            min(TAKES_MS[role]),
            one[role].numbers["latency_p50"].value,
            max(TAKES_MS[role]),
        ]


TICKING = """
import sys
from functools import partial
import numpy as np
from kd2edge.edge.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession

NS = {"small": 7_000_000, "large": 11_000_000}

class Session(OnnxRuntimeSession):
    now = 0

    def infer(self, x):
        self.now += self.takes
        return super().infer(x)

class Ticking(OnnxRuntime):
    name = "ticking"

    def open(self, path, target):
        session = super().open(path, target)
        session.__class__, session.takes = Session, NS[path.stem]
        session.held = np.ones((150 if path.stem == "large" else 1) << 17)  # of eight bytes
        worker = sys.modules["__main__"]
        worker.measure = partial(worker.measure, clock=lambda: session.now)
        return session
"""
BY_THE_WALL = ("cold_start", "session_open", "first_inference", "peak_memory")


def test_by_real_processes_each_model_has_its_own_outputs_samples_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real sessions of ONNX Runtime, each of which brings a clock of its own to its process."""
    monkeypatch.setattr(bench, "ROUNDS", 2)
    plugin = tmp_path / "ticking.py"
    plugin.write_text(TICKING)
    options: dict[str, Any] = {"target": TARGET.model_copy(update={"backend": str(plugin)})}
    options["suite"] = Suite(about="brief", latency=Latency(warmup_ms=0, seconds=0.2, min_samples=60), rules=())
    small, large = (linear(tmp_path / f"{name}.onnx", classifier() * k) for name, k in (("small", 1), ("large", -1)))
    found: list[dict[str, Row]] = []
    outputs: list[set[str]] = []
    for items in ([("small", small), ("large", large)], [("large", large), ("small", small)]):
        with kept_in(tmp_path / "cells") as kept:
            found.append(rows(items, kept=kept, **options))
            written = kept.folder.glob("*/outputs.npy")
            outputs.append({hashlib.sha256(path.read_bytes()).hexdigest() for path in written})
            kept.remove()
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 2
    first, second = found
    for role, ms in (("small", 7.0), ("large", 11.0)):
        assert first[role].faults == second[role].faults == ()
        for row in (first[role], second[role]):
            assert set(row.traces["latency_ms"]) == {ms}
            assert row.conditions["round_medians_ms"] == [ms, ms]
        same = set(first[role].numbers) - set(BY_THE_WALL)
        assert {name: first[role].numbers[name] for name in same} == {name: second[role].numbers[name] for name in same}
    peaks = [{role: row.numbers["peak_memory"].value or 0 for role, row in rows.items()} for rows in found]
    assert abs(peaks[0]["small"] - peaks[1]["small"]) < 30
    assert all(peak["large"] - peak["small"] > 100 for peak in peaks)
