"""Copies and computing timed apart on the device, several batches under way: scripted time, worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge import keys, signing
from kd2edge.artifact import Ancestor
from kd2edge.edge import jobs, launch
from kd2edge.edge.bench import bench
from kd2edge.edge.comparisons import Measured, comparisons
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.jobs import Jobs
from kd2edge.edge.kept import kept_for_now
from kd2edge.edge.session import Staged, open_backend
from kd2edge.edge.staged import FIELDS, flood, measure_stages, summary
from kd2edge.edge.worker import Answer, Job
from kd2edge.errors import UserError
from kd2edge.report import figures
from kd2edge.report.model import Report
from kd2edge.schema import BatchRange, Latency, Rule, Suite, Target
from tests import imaginary_device
from tests.imaginary_device import ENQUEUE_NS, GRAPH_NS, LAUNCH_NS, PLAIN_NS, ImaginarySession
from tests.test_edge_bench import TARGET, Patterns, classifier, linear

IMAGES = np.random.default_rng(0).standard_normal((5, 1, 4, 4)).astype(np.float32)
BRIEF = {"warmup_ms": 2, "seconds": 0.03, "min_samples": 90}


def rows(graph: int, compute: list[float], h2d: float = 0.1, d2h: float = 0.1, enqueue: float = 0.1) -> np.ndarray:
    """Samples in ms as they are saved: in ns."""
    taken = [[1e6 * h2d, 1e6 * ms, 1e6 * d2h, 1e6 * enqueue, graph] for ms in compute]
    samples: np.ndarray = np.array(taken).round().astype(np.int64).reshape(-1, len(FIELDS))
    return samples


def test_each_way_of_asking_gets_half_the_time_and_all_the_samples() -> None:
    session = ImaginarySession()
    latency = Latency(warmup_ms=20, seconds=0.2, min_samples=50)
    taken, told = measure_stages(session, IMAGES, latency, session.clock)
    assert told == {}
    for graph in (0, 1):
        series = taken[taken[:, -1] == graph]
        assert len(series) == 100  # half of 0.2 s of calls of one millisecond
        expected = (1000, GRAPH_NS, 500, LAUNCH_NS, 1) if graph else (1000, PLAIN_NS, 500, ENQUEUE_NS, 0)
        assert {tuple(row) for row in series.tolist()} == {expected}
    many, _ = measure_stages(session, IMAGES, latency.model_copy(update={"min_samples": 300}), session.clock)
    assert [int((many[:, -1] == graph).sum()) for graph in (0, 1)] == [300, 300]


def test_a_model_that_cannot_be_captured_says_so_and_has_the_rest() -> None:
    session = ImaginarySession(capturable=False)
    taken, told = measure_stages(session, IMAGES, Latency(warmup_ms=1, seconds=0.2, min_samples=1), session.clock)
    assert told == {"no_graph": "This cannot be captured as a CUDA graph: it waits."}
    assert set(taken[:, -1].tolist()) == {0}
    numbers, conditions = summary([taken], 1, shipped=False, no_graph=told["no_graph"])
    assert numbers["gpu_compute_p50_no_graph"].value == PLAIN_NS / 1e6
    for name in ("gpu_compute_p50", "gpu_compute_mean", "gpu_compute_cov", "enqueue_p50"):
        assert (numbers[name].value, numbers[name].note) == (None, told["no_graph"])
    assert conditions["no_graph"] == told["no_graph"]


def test_a_summary_of_known_samples() -> None:
    compute = [float(ms) for ms in range(1, 1001)]
    rounds = [rows(1, compute[:400]), rows(1, compute[400:])]
    rounds = [np.concatenate([one, rows(0, [4.0] * 50, h2d=0.5, d2h=0.25, enqueue=3.0)]) for one in rounds]
    numbers, conditions = summary(rounds, 1, shipped=True)
    values = {q: numbers[f"gpu_compute_p{q}"].value for q in (50, 90, 95, 99)}
    assert values == {50: 500.0, 90: 900.0, 95: 950.0, 99: 990.0}
    assert numbers["gpu_compute_p50"].low == pytest.approx(469, abs=1)  # the ranks 500 -+ 1.96 sqrt(1000 / 4)
    assert numbers["gpu_compute_p50"].high == pytest.approx(531, abs=1.5)
    assert numbers["gpu_compute_mean"].value == 500.5
    assert (numbers["gpu_compute_mean"].low or 0) < 500.5 < (numbers["gpu_compute_mean"].high or 0)
    deviation = np.sqrt((1000**2 - 1) / 12)
    assert numbers["gpu_compute_std"].value == pytest.approx(deviation)
    assert numbers["gpu_compute_cov"].value == pytest.approx(100 * deviation / 500.5)
    assert numbers["gpu_compute_p50_no_graph"].value == 4.0
    assert (numbers["h2d_p50"].value, numbers["d2h_p50"].value) == (0.5, 0.25)
    assert (numbers["enqueue_p50"].value, numbers["enqueue_p50_no_graph"].value) == (0.1, 3.0)
    assert {numbers[name].n for name in ("gpu_compute_p99", "enqueue_p50")} == {1000}
    assert numbers["gpu_compute_p90_no_graph"].usable
    assert numbers["gpu_compute_p95_no_graph"].note == "a p95 needs 130 samples, there are 100"
    assert numbers["gpu_compute_p99_no_graph"].note == "a p99 needs 662 samples, there are 100"
    assert (conditions["cuda_graph"], conditions["streams"]) == (True, 1)
    assert {figures.kind(name) for name in numbers} == {"speed"}


@pytest.mark.parametrize(
    ("told", "given", "bound"),
    [
        ("enqueue_bound", {"enqueue": 0.81}, True),
        ("enqueue_bound", {"enqueue": 0.8}, False),
        ("copy_bound", {"h2d": 1.0}, True),
        ("copy_bound", {"d2h": 1.0}, True),
        ("copy_bound", {"h2d": 0.999, "d2h": 0.999}, False),
        ("gpu_unstable", {"compute": [1.0, 1.06] * 30}, True),  # 0.03 over 1.03: 2.9 %
        ("gpu_unstable", {"compute": [1.0, 1.05] * 30}, False),  # 0.025 over 1.025: 2.4 %
    ],
)
def test_trtexec_s_warnings_are_conditions(told: str, given: dict[str, Any], bound: bool) -> None:
    samples = rows(0, **{"compute": [1.0] * 60, **given})
    other = rows(1, [1.0] * 60)
    assert summary([samples, other], 1, shipped=False)[1][told] is bound
    as_graph = summary([samples, other], 1, shipped=True)[1]  # what is not shipped binds nothing, but is unstable
    assert as_graph[told] is (bound and told == "gpu_unstable")


@pytest.mark.parametrize(("streams", "apart"), [(1, PLAIN_NS), (2, PLAIN_NS // 2), (3, PLAIN_NS // 2)])
def test_several_batches_are_under_way_and_come_back_in_turn(streams: int, apart: int) -> None:
    session = ImaginarySession()
    latency = Latency(batch=2, warmup_ms=2, seconds=0.01, min_samples=50)
    ns = flood(session, IMAGES, latency, streams, session.clock)
    assert set(ns.tolist()) == {apart}
    assert len(ns) == max(50, 10_000_000 // apart)
    assert session.now_ns >= 12_000_000  # warm-up, then the seconds
    assert session.begun == {}
    assert session.finished[: 2 * streams] == [*range(streams)] * 2


def test_a_flood_lasts_at_most_six_times_its_seconds() -> None:
    session = ImaginarySession()
    ns = flood(session, IMAGES, Latency(warmup_ms=0, seconds=0.001, min_samples=1000), 1, session.clock)
    assert len(ns) == 6_000_000 // PLAIN_NS
    with pytest.raises(UserError, match="out of memory"):
        flood(session, IMAGES, Latency(), 9, session.clock)


def run(folder: Path, target: Target, **asked: Any) -> Report:
    fields = {"about": "brief", "rules": [], "latency": BRIEF, "sweep": {"seconds": 0.02}}
    suite = Suite.model_validate({**fields, **asked})
    items = [("fp32", linear(folder / "fp32.onnx", classifier()))]
    return bench(items, target, "here", suite, "brief", Patterns(), accuracy=False)


def test_a_profile_from_more_than_one_on_takes_all_images(tmp_path: Path) -> None:
    """48 images in nines leave three, fewer than the engine takes."""
    update = {"backend": imaginary_device.__file__, "batch": BatchRange(min=5, opt=5, max=9)}
    suite = Suite.model_validate({"about": "brief", "rules": [], "latency": {**BRIEF, "batch": 5}})
    items = [("fp32", linear(tmp_path / "fp32.onnx", classifier()))]
    (row,) = bench(items, TARGET.model_copy(update=update), "here", suite, "brief", Patterns()).rows
    assert row.faults == ()
    assert row.numbers["top1"].n == 48
    session = ImaginarySession((5, 9))
    assert in_batches(session, np.zeros((48, 1, 4, 4), np.float32), 9, 5).shape == (48, 12)
    assert in_batches(session, np.zeros((2, 1, 4, 4), np.float32), 9, 5).shape == (2, 12)


def test_where_signatures_are_required_the_file_needs_one_and_the_engine_made_of_it_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "home"))
    recipe = Ancestor(role="recipe", kind="recipe", sha256="a" * 64)
    model = linear(tmp_path / "fp32.onnx", classifier(), parents=(recipe.sha256,), lineage=(recipe,))
    target = TARGET.model_copy(update={"backend": imaginary_device.__file__, "require_signature": True})
    with kept_for_now() as kept:
        trial = Jobs("fp32", model, target, kept)
        with pytest.raises(UserError, match="is not signed"):
            trial.prepare(open_backend(target.backend))
        keys.create("release")
        signing.sign(model, "release")
        assert trial.prepare(open_backend(target.backend)) == trial.model != model.path
        assert trial.target == target.model_copy(update={"require_signature": False})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Report:
    update = {"backend": imaginary_device.__file__, "batch": BatchRange(max=8), "cuda_graph": True}
    sweep = {"batches": [2, 7, 16], "streams": [1, 2, 4], "seconds": 0.02}
    return run(tmp_path_factory.mktemp("swept"), TARGET.model_copy(update=update), sweep=sweep)


def test_a_bench_tells_stages_beside_the_latency(swept: Report) -> None:
    (row,) = swept.rows
    assert row.faults == ()
    assert row.numbers["latency_p50"].usable
    assert row.numbers["gpu_compute_p50"].value == GRAPH_NS / 1e6
    assert row.numbers["gpu_compute_p90_no_graph"].value == PLAIN_NS / 1e6
    assert row.numbers["gpu_compute_p50"].n == row.numbers["enqueue_p50"].n
    assert (row.numbers["gpu_compute_p50"].n or 0) >= 90
    assert row.numbers["h2d_p50"].value == 1e-3
    assert row.numbers["gpu_compute_cov"].value == pytest.approx(0, abs=1e-9)
    told = {name: row.conditions[name] for name in ("cuda_graph", "enqueue_bound", "copy_bound", "gpu_unstable")}
    assert told == {"cuda_graph": True, "enqueue_bound": False, "copy_bound": False, "gpu_unstable": False}


def test_each_batch_of_a_sweep_has_an_engine_of_its_own(swept: Report) -> None:
    (row,) = swept.rows
    assert row.numbers["gpu_compute_p50@b2"].value == 2 * GRAPH_NS / 1e6
    assert row.numbers["latency_p50@b2"].usable
    assert row.conditions["sweep"]["b2"]["profile"] == "static"
    assert row.numbers["latency_p50@b7"].note == "The builder knows no seven."
    assert row.numbers["throughput@b16"].note == "the target takes batches of 1 to 8"


def test_streams_have_a_throughput_as_far_as_there_is_room(swept: Report) -> None:
    (row,) = swept.rows
    assert row.numbers["throughput@s1"].usable
    assert row.numbers["throughput@s2"].usable
    assert str(row.numbers["throughput@s4"].note).startswith("The GPU is out of memory")
    assert row.conditions["sweep"]["s2"]["streams"] == 2
    assert "latency_p50@s2" not in row.numbers
    assert figures.name("throughput@s2") == "throughput, 2 streams"
    assert figures.kind("throughput@s2") == "speed"


def test_a_runtime_on_the_processor_has_no_stages(tmp_path: Path) -> None:
    (row,) = run(tmp_path, TARGET, sweep={"batches": [2], "streams": [2], "seconds": 0.02}).rows
    assert row.faults == ()
    assert not [name for name in row.numbers if name.startswith(("gpu_compute", "h2d", "d2h", "enqueue"))]
    assert not {"cuda_graph", "gpu_unstable", "enqueue_bound"} & set(row.conditions)
    assert row.numbers["throughput@s2"].note == "CPUExecutionProvider works on one batch at a time"
    assert "profile" not in row.conditions["sweep"]["b2"]


def test_a_device_that_throttled_while_stages_were_timed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Answer] = []

    def hot(job: Job) -> Answer:
        answer = launch.run_job(job)
        assert answer.watched is not None
        assert answer.watched_stages is not None
        seen.append(answer)
        cold, warm = (answer.watched.model_copy(update={"throttle_events": n, "mhz": ()}) for n in (0, 1))
        return answer.model_copy(update={"watched": cold, "watched_stages": warm})

    monkeypatch.setattr(jobs, "run_job", hot)
    target = TARGET.model_copy(update={"backend": imaginary_device.__file__, "batch": BatchRange(max=8)})
    (row,) = run(tmp_path, target, sweep=None).rows
    assert row.faults == ()
    assert row.conditions["throttled"] is True
    for answer in seen:
        assert answer.on_device
        assert answer.measured is not None
        assert answer.staged is not None
        assert answer.measured[1] <= answer.staged[0] < answer.staged[1]


def test_computing_is_compared_by_its_own_samples() -> None:
    random = np.random.default_rng(0)
    slow, fast = ([rows(1, list(ms * random.normal(1, 0.01, 300))) for _ in range(3)] for ms in (2.0, 1.0))
    both = {
        role: Measured(summary(stages, 1, shipped=True)[0], "logits", stages=stages)
        for role, stages in (("fp32", slow), ("int8", fast))
    }
    rules = [
        Rule(metric=f"gpu_compute_{q}", of="int8", versus="fp32", ratio_at_most=1, why="") for q in ("p50", "mean")
    ]
    suite = Suite(about="", rules=tuple(rules))
    found = comparisons(suite, both, Patterns().split("test"), "fp32")["int8"]
    assert {one.metric for one in found} == {"gpu_compute_p50", "gpu_compute_mean"}
    for one in found:
        assert one.value == pytest.approx(0.5, abs=0.01)
        assert 0.48 < (one.low or 0) < one.value < (one.high or 1) < 0.52


def test_the_imaginary_session_is_one_of_a_device() -> None:
    assert isinstance(ImaginarySession(), Staged)
