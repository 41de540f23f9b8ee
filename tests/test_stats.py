"""Percentiles and their intervals, against numpy and scipy, and by the coverage that they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from kd2edge.stats import median, percentile, percentile_interval

samples = st.lists(st.integers(-50, 50), min_size=1, max_size=120)


@given(samples, st.integers(1, 100))
def test_percentile_is_numpys_inverted_cdf(values: list[int], q: int) -> None:
    assert percentile(values, q) == np.percentile(values, q, method="inverted_cdf")
    assert percentile(values, q) in values


def test_percentile_does_not_slip_a_rank_by_rounding() -> None:
    assert percentile(np.arange(1, 1001), 99.9) == 999
    assert percentile(np.arange(1, 1001), 0.1) == 1
    assert percentile([5.0], 50) == percentile([5.0], 100) == 5


@given(samples)
def test_median_is_numpys(values: list[int]) -> None:
    assert median(values) == np.median(values)


@given(st.integers(1, 2000), st.sampled_from([1, 10, 50, 90, 95, 99, 99.9]), st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_the_tightest_that_the_binomial_law_allows(n: int, q: float, confidence: float) -> None:
    found = percentile_interval(np.arange(1, n + 1), q, confidence)  # each sample is its own rank
    tail, below = (1 - confidence) / 2, binom(n, q / 100)
    possible = below.cdf(0) <= tail and below.sf(n - 1) <= tail
    assert (found is not None) == possible
    if found is not None:
        lower, upper = found
        assert below.cdf(lower - 1) <= tail < below.cdf(lower)
        assert below.sf(upper - 1) <= tail < below.sf(upper - 2)


@pytest.mark.parametrize(("q", "needed"), [(50, 6), (90, 36), (95, 72), (99, 368)])
def test_samples_needed(q: float, needed: int) -> None:
    assert percentile_interval(np.arange(needed - 1), q) is None
    assert percentile_interval(np.arange(needed), q) is not None


@pytest.mark.parametrize("q", [50, 95])
def test_coverage_on_a_skewed_law(q: float) -> None:
    random = np.random.default_rng(0)
    truth = -np.log1p(-q / 100)  # of the exponential law
    held = []
    for _ in range(2000):
        interval = percentile_interval(random.exponential(size=100), q)
        assert interval is not None
        held.append(interval[0] <= truth <= interval[1])
    assert np.mean(held) >= 0.94


def test_many_samples_are_no_trouble() -> None:
    interval = percentile_interval(np.arange(100_000), 50)
    assert interval is not None
    expected = [binom.ppf(level, 100_000, 0.5) for level in (0.025, 0.975)]
    assert interval == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_faulty_samples_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        median(values)
    with pytest.raises(ValueError, match="at least one sample"):
        percentile(values, 50)
    with pytest.raises(ValueError, match="at least one sample"):
        percentile_interval(values, 50)


def test_faulty_requests_are_refused() -> None:
    for q in (0, 101, float("nan")):
        with pytest.raises(ValueError, match="percentile"):
            percentile([1.0], q)
    for q, confidence in ((0, 0.95), (100, 0.95), (50, 1.0), (50, 0.0)):
        with pytest.raises(ValueError, match="no interval"):
            percentile_interval([1.0], q, confidence)
