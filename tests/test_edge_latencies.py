"""Timings compared by stretches of time that fell upon the same machine."""

import numpy as np
import numpy.typing as npt
import pytest

from kd2edge.edge import latencies
from kd2edge.edge.comparisons import Measured, comparisons
from kd2edge.edge.measure import summary
from tests.test_edge_comparisons import ends, of_labels, rule, suite


def rounds(factor: float, seed: int, count: int = 300) -> list[npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [np.asarray(factor * (1e6 + 5e4 * random.standard_normal(count)), np.int64) for _ in range(3)]


def timed(factor: float, seed: int) -> Measured:
    taken = rounds(factor, seed)
    return Measured(summary(taken, 4)[0], "embedding", rounds=taken)


def test_timings_are_compared_by_stretches_of_time() -> None:
    rows = {"fp32": timed(1.0, 0), "int8": timed(0.8, 1)}
    names = ("latency_p50", "latency_p90", "latency_p99", "latency_mean", "throughput")
    rules = [rule(name, ratio_at_most=1) for name in names] + [rule(name, drop_at_most=1) for name in names]
    found = comparisons(suite(*rules, latency={"batch": 4}), rows, of_labels(np.arange(4)), "fp32", 0.98)["int8"]
    assert [(made.metric, made.kind) for made in found] == [(n, k) for k in ("ratio", "change") for n in names]
    for made in found:
        low, high = ends(made)
        expected = {"latency": 0.8, "throughput": 1.25}[made.metric.split("_")[0]]
        whole = {"latency": 1.0, "throughput": 4000.0}[made.metric.split("_")[0]]
        truth = expected if made.kind == "ratio" else whole * (expected - 1)
        near = 1.12 if made.metric == "latency_p99" else 1.07 if made.metric == "latency_p90" else 1.0
        truth = truth if made.kind == "ratio" else truth * near
        assert low < made.value < high
        assert made.value == pytest.approx(truth, rel=0.05)
        assert high - low < 0.25 * abs(made.value)
        assert made.n == 21
        assert made.how == "2,000 resamples of 21 stretches of time in 3 rounds that took turns"
    throughput = rows["int8"].numbers["throughput"]
    assert (throughput.low or 0) < (throughput.value or 0) < (throughput.high or 0)


def test_a_machine_that_slows_down_slows_both() -> None:
    """Each round half as fast as the one before: the ratio is as sharp as on a steady machine, a latency is not."""
    one_, other = ([ns * 2**turn for turn, ns in enumerate(rounds(f, s))] for f, s in ((0.9, 0), (1.0, 1)))
    interval, _, _ = latencies.compared("latency_mean", one_, other, True, 1, 0.95) or (None, 0, "")
    assert interval is not None
    assert interval[0] < 0.9 < interval[1]
    assert interval[1] - interval[0] < 0.02
    low, high = latencies.mean_interval("latency_mean", other, 1, 0.95) or (0, 0)
    assert high / low > 1.3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([], []), ([[1]], [[1]]), ([[1, 2]], []), ([[1, 2], [3, 4]], [[1, 2]]), ([[1, 2], []], [[1, 2], [3]])],
)
def test_rounds_that_are_not_side_by_side_do_not_compare(ours: list[list[int]], theirs: list[list[int]]) -> None:
    ns = [[np.array(taken, np.int64) for taken in row] for row in (ours, theirs)]
    assert latencies.compared("latency_p50", ns[0], ns[1], True, 1, 0.95) is None


def test_few_stretches_have_a_ratio_without_an_interval() -> None:
    taken = [np.array([2, 3, 4], np.int64) * 10**6]
    made = latencies.compared("latency_p50", taken, taken, True, 1, 0.95)
    assert made is not None
    assert made[:2] == (None, 3)
