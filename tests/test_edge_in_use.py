"""A bench with scenarios, a sweep and the machine watched: worker processes and ONNX Runtime for real, briefly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.edge import jobs, sensors
from kd2edge.edge.bench import bench
from kd2edge.edge.watch import Watched
from kd2edge.edge.worker import Answer, Job
from kd2edge.report import figures
from kd2edge.report.model import Report
from kd2edge.schema import BatchRange, Suite, Target
from tests.test_edge_bench import BROKEN_BACKEND, TARGET, Patterns, classifier, linear

BRIEF = {"warmup_ms": 2, "seconds": 0.03, "min_samples": 90, "energy": True}
SCENARIOS = [
    {"kind": "single_stream", "seconds": 0.05, "warmup_ms": 2},
    {"kind": "multi_stream", "seconds": 0.05, "warmup_ms": 2, "samples": 10},
    {"kind": "server", "seconds": 0.05, "warmup_ms": 2, "bound_ms": 1000, "tries": 2},
    {"kind": "offline", "seconds": 0.05, "warmup_ms": 2},
]
ASKED = {"single_stream_p90", "multi_stream_p99", "server_qps", "server_p99", "offline_throughput"}
STARTED = {"cold_start", "session_open", "first_inference"}
MANY = 1 << 10  # cores that no machine of ours has


def run(folder: Path, target: Target = TARGET, batch: str | int = "N", **asked: Any) -> Report:
    sweep = {"batches": [2, 5, 64], "threads": [1, MANY], "seconds": 0.02}
    fields = {"about": "brief", "rules": [], "latency": BRIEF, "scenarios": SCENARIOS, "sweep": sweep}
    suite = Suite.model_validate(fields | asked)
    items = [("fp32", linear(folder / "fp32.onnx", classifier(), batch=batch))]
    return bench(items, target, "here", suite, "brief", Patterns(), accuracy=False)


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run(tmp_path_factory.mktemp("free"))


def test_every_scenario_has_its_numbers_and_says_what_they_are_not(free: Report) -> None:
    (row,) = free.rows
    assert row.faults == ()
    assert set(row.numbers) >= ASKED
    for name in ASKED:
        number = row.numbers[name]
        assert number.usable or number.note, name
    assert row.numbers["single_stream_p90"].usable
    assert row.numbers["offline_throughput"].usable
    assert (row.numbers["single_stream_p90"].n or 0) >= 64
    told = row.conditions["scenarios"]
    assert set(told) == {"single_stream", "multi_stream", "server", "offline"}
    assert all("no MLPerf result" in one["claim"] for one in told.values())
    assert (told["multi_stream"]["samples_per_query"], told["multi_stream"]["batch"]) == (10, 10)
    assert told["offline"]["batch"] == TARGET.batch.max
    assert 1 <= len(told["server"]["tries"]) <= 2


def test_a_sweep_has_a_cell_for_what_file_target_and_machine_allow(free: Report) -> None:
    numbers = free.rows[0].numbers
    for cell in ("b2", "b5", "t1"):
        assert numbers[f"latency_p50@{cell}"].usable
        assert numbers[f"throughput@{cell}"].usable
        assert set(free.rows[0].conditions["sweep"][cell]) - {"steal", "throttled"} == {"warmup", "unstable", "seconds"}
    for cell, note in (("b64", "the target takes batches of 1 to 32"), (f"t{MANY}", "this machine has ")):
        assert numbers[f"latency_p50@{cell}"].value is None
        assert str(numbers[f"throughput@{cell}"].note).startswith(note)
    assert set(free.rows[0].conditions["sweep"]) == {"b2", "b5", "t1"}


def test_every_process_of_latency_tells_how_it_started(free: Report) -> None:
    numbers = free.rows[0].numbers
    assert {numbers[name].n for name in STARTED} == {3}
    assert all((numbers[name].value or 0) > 0 for name in STARTED)
    parts = sum(numbers[name].value or 0 for name in STARTED - {"cold_start"})
    assert (numbers["cold_start"].value or 0) > parts / 2  # medians do not add up, but nearly


def test_the_machine_is_watched_meanwhile(free: Report) -> None:
    (row,) = free.rows
    assert row.conditions["watch"]["looks"] >= 0
    energy = row.numbers["energy"]
    assert energy.usable or ("idling" if sensors.Sensors().rails else "RAPL") in str(energy.note)
    assert 0 <= row.conditions.get("steal", 0) <= 1


def test_all_of_it_is_told_as_speed(free: Report) -> None:
    speed = {name for name in free.rows[0].numbers if figures.kind(name) == "speed"}
    assert speed == {name for name in free.rows[0].numbers if name not in ("size", "peak_memory")}


def test_a_file_of_a_fixed_batch_says_what_it_cannot_be_asked(tmp_path: Path) -> None:
    target = TARGET.model_copy(update={"batch": BatchRange(max=5)})
    asked: dict[str, Any] = {"latency": {**BRIEF, "batch": 5}, "scenarios": SCENARIOS[:2], "sweep": {"batches": [2]}}
    (row,) = run(tmp_path, target, batch=5, **asked).rows
    assert row.faults == ()
    assert row.numbers["single_stream_p90"].note == "queries of 1 cannot be put to batches of 5"
    assert row.conditions["scenarios"]["multi_stream"]["batch"] == 5  # ten samples are two calls
    assert row.numbers["latency_p50@b2"].note == "the file takes batches of 5"


@pytest.mark.parametrize("where", ["scenario", "sweep", "stages of the sweep"])
def test_a_row_that_was_throttled_in_any_of_it_says_so(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hot(job: Job) -> Answer:
        np.save(job.samples or Path(), np.full(90, 1_000_000))
        here = job.scenario is not None if where == "scenario" else job.latency is not None and job.latency.batch == 2
        watched = Watched(at=0, lasted_s=1, throttle_events=int(here), steal=0.25)
        seen = {"watched": watched}
        if where == "stages of the sweep":
            seen = {"watched": watched.model_copy(update={"throttle_events": 0}), "watched_stages": watched}
        return Answer(provider="Scripted", scenario={"samples_per_query": 1}, **seen)

    monkeypatch.setattr(jobs, "run_job", hot)
    (row,) = run(tmp_path, scenarios=SCENARIOS[:1], sweep={"batches": [2], "seconds": 0.02}).rows
    assert row.faults == ()
    assert row.conditions["throttled"] is True
    told = row.conditions["scenarios"]["single_stream"], row.conditions["sweep"]["b2"]
    assert [one["throttled"] for one in told] == [where == "scenario", where != "scenario"]
    assert [one["steal"] for one in told] == [0.25, 0.25]


def test_rows_at_fault_are_asked_nothing(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN_BACKEND)
    asked = {"scenarios": SCENARIOS[:1], "sweep": {"batches": [64]}}
    suite = Suite.model_validate({"about": "x", "latency": BRIEF, "rules": [], **asked})
    items = [(role, linear(tmp_path / f"{role}.onnx", np.eye(64))) for role in ("raises", "fp32")]
    target = TARGET.model_copy(update={"backend": str(plugin)})
    rows = {row.role: row for row in bench(items, target, "x", suite, "x", Patterns(), accuracy=False).rows}
    assert "the runtime broke" in rows["raises"].faults[0]
    assert set(rows["raises"].numbers) == set(rows["fp32"].numbers)
    assert not any(number.usable for name, number in rows["raises"].numbers.items() if name != "size")
    assert rows["fp32"].faults == ()
    assert rows["fp32"].numbers["single_stream_p90"].usable
