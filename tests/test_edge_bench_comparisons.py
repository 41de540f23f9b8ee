"""The bench end to end, jobs done in this process: its report has the comparisons that its rules need."""

from pathlib import Path

import numpy as np
import pytest

from kd2edge.edge import jobs, worker
from kd2edge.edge.bench import bench
from kd2edge.edge.clustered import clustered
from tests.test_edge_bench import BRIEF, CLASSES, TARGET, Patterns, classifier, embedder, linear
from tests.test_edge_comparisons import ends, rule, suite


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_job", worker.perform)


@pytest.mark.usefixtures("in_this_process")
def test_a_bench_has_the_comparisons_that_its_rules_need(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal((64, 16))
    coarse = np.round(weights * 2) / 2
    items = [
        ("teacher", embedder(tmp_path / "teacher.onnx", weights[:, :12])),
        ("fp32", embedder(tmp_path / "fp32.onnx", weights)),
        ("int8", embedder(tmp_path / "int8.onnx", coarse, precision="int8")),
        ("plain", embedder(tmp_path / "plain.onnx", np.full((64, 16), np.nan))),
    ]
    rules = (
        rule("tar@1e-2", of="fp32", versus="teacher"),
        rule("tar@1e-2", of="fp32", versus="plain", drop_at_most=0),
        rule("tar@1e-2"),
        rule("frr_at_fp32_threshold", rise_at_most=1.5),
        rule("latency_p90", ratio_at_most=1, advice=True),
        rule("latency_p50", ratio_at_most=1),
        rule("size", ratio_at_most=0.6),
    )
    asks = suite(*rules, confidence=0.9, latency=BRIEF)
    report = bench(items, TARGET, "here", asks, "brief", Patterns())
    assert report.confidence == pytest.approx(0.95)
    assert report.suite.confidence == 0.9
    made = {row.role: {(one.metric, one.versus, one.kind): one for one in row.comparisons} for row in report.rows}
    by_default = ("latency_p50", "fp32", "ratio")
    assert set(made["teacher"]) == {by_default}
    assert set(made["fp32"]) == {("tar@1e-2", "teacher", "change")}
    frr = ("frr_at_fp32_threshold", "fp32", "change")
    assert set(made["int8"]) == {("tar@1e-2", "fp32", "change"), frr, ("latency_p90", "fp32", "ratio"), by_default}
    assert made["plain"] == {}
    for row in report.rows[:3]:
        for name in ("tar@1e-2", "latency_p50", "throughput"):
            assert row.numbers[name].low is not None, (row.role, name)
    tar_change = made["int8"]["tar@1e-2", "fp32", "change"]
    images = Patterns().images.reshape(-1, 64) / 255
    tars = [
        clustered("tar@1e-2", (images @ w).astype(np.float32), Patterns().split("test"), {}) for w in (coarse, weights)
    ]
    assert tars[0] is not None
    assert tars[1] is not None
    interval, _ = tars[0].against(tars[1]).interval(0.95)
    assert interval is not None
    assert ends(tar_change) == pytest.approx([100 * end for end in interval], abs=1e-3)


@pytest.mark.usefixtures("in_this_process")
def test_files_are_compared_with_the_first_where_none_is_fp32(tmp_path: Path) -> None:
    weights = classifier()
    items = [
        (role, linear(tmp_path / f"{role}.onnx", weights * scale)) for role, scale in (("a", 1), ("b", 2), ("c", -1))
    ]
    report = bench(items, TARGET, "here", suite(latency=BRIEF), "brief", Patterns())
    made = [{(one.metric, one.versus, one.kind) for one in row.comparisons} for row in report.rows]
    against = {("top1", "a", "change"), ("latency_p50", "a", "ratio")}
    assert made == [set(), against, against]
    assert report.rows[2].comparisons[0].value == -100


@pytest.mark.usefixtures("in_this_process")
def test_no_report_of_peoples_faces_carries_any(tmp_path: Path) -> None:
    class People(Patterns):
        personal = True

    noise = np.random.default_rng(0).standard_normal((64, CLASSES))
    items = [
        ("fp32", linear(tmp_path / "fp32.onnx", classifier())),
        ("int8", linear(tmp_path / "int8.onnx", noise, precision="int8")),
    ]
    asks = suite(rule("size", ratio_at_most=2), latency=BRIEF)
    shown = [bench(items, TARGET, "here", asks, "brief", source()).regressions for source in (Patterns, People)]
    assert shown[0]
    assert shown[1] == ()
