"""The bootstrap over clusters and the ratio of latencies, against scipy and by repeating what was drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kd2edge.stats import (
    RESAMPLES,
    Bootstrap,
    Interval,
    bootstrap,
    enough,
    in_stretches,
    one_by_one,
    percentile,
    percentile_change,
    percentile_ratio,
    resampled,
)
from kd2edge.stats.resampling import Counts, Doubles, Method

SKEWED = np.random.default_rng(3).exponential(size=24)
METHODS: tuple[Method, ...] = ("percentile", "expanded", "bca")


def mean_of(values: npt.NDArray[np.float64]) -> Callable[[Counts], Doubles]:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1), np.float64)


def ends(drawn: Bootstrap, confidence: float = 0.95) -> Interval:
    interval = drawn.interval(confidence)
    assert interval is not None
    return interval


def test_weights_are_draws_with_replacement_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resampled(7, 500)))
    assert whole.shape == (500, 7)
    assert (whole.sum(axis=1) == 7).all()
    covariance = np.cov(np.concatenate(list(resampled(4, 20_000))).T)
    np.testing.assert_allclose(covariance, np.eye(4) - 1 / 4, atol=0.03)  # of multinomial counts
    monkeypatch.setattr("kd2edge.stats.resampling.AT_ONCE", 50)
    blocks = list(resampled(7, 500))
    assert max(map(len, blocks)) == 7
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("statistic", ["mean", "quotient"])
def test_intervals_are_scipys(method: Method, statistic: str) -> None:
    other = np.random.default_rng(4).normal(3, 1, len(SKEWED)) + SKEWED
    statistics: dict[str, tuple[Any, Any]] = {
        "mean": (mean_of(SKEWED), lambda a, b, axis: a.mean(axis)),
        "quotient": (lambda w: (w @ SKEWED) / (w @ other), lambda a, b, axis: a.mean(axis) / b.mean(axis)),
    }
    ours, scipys = statistics[statistic]
    found = ends(bootstrap(ours, len(SKEWED), method, 20_000), 0.9)
    both: Any = SKEWED, other
    theirs = scipy.stats.bootstrap(
        both,
        scipys,
        paired=True,
        vectorized=True,
        confidence_level=0.9,
        n_resamples=20_000,
        method="BCa" if method == "bca" else "percentile",
        rng=np.random.default_rng(0),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)


def test_expanded_makes_good_what_few_clusters_lack() -> None:
    """For a mean it is Student's interval, but for the shape of the draws (Hesterberg 2015)."""
    values = np.random.default_rng(6).normal(size=8)
    narrow, wide = (ends(bootstrap(mean_of(values), 8, method, 20_000)) for method in ("percentile", "expanded"))
    students = scipy.stats.t.interval(0.95, 7, values.mean(), values.std(ddof=1) / 8**0.5)
    assert students[1] - students[0] == pytest.approx(wide[1] - wide[0], rel=0.1)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    large = np.random.default_rng(7).normal(size=2000)
    all_three = [ends(bootstrap(mean_of(large), 2000, method)) for method in METHODS]
    assert np.ptp(all_three, axis=0).max() < 0.1 * (all_three[0][1] - all_three[0][0])


@pytest.mark.parametrize("method", METHODS)
def test_p_values_say_what_intervals_say(method: Method) -> None:
    drawn = bootstrap(mean_of(SKEWED), len(SKEWED), method, 20_000)
    assert drawn.value == pytest.approx(SKEWED.mean())
    for confidence in (0.8, 0.9, 0.95, 0.99):
        low, high = ends(drawn, confidence)
        tail = (1 - confidence) / 2
        assert drawn.below(high) == pytest.approx(tail, rel=0.1)
        assert drawn.above(low) == pytest.approx(tail, rel=0.1)
        assert drawn.below(high + 0.05) < tail < drawn.below(high - 0.05)
    assert 0 < drawn.below(99.0) < 2e-3 < 0.998 < drawn.above(99.0)


def test_the_same_seed_is_the_same_answer() -> None:
    first, again, other = (ends(bootstrap(mean_of(SKEWED), 24, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_a_scalar_statistic_and_one_that_is_nan_somewhere() -> None:
    scalar = one_by_one(lambda weights: float(weights @ SKEWED / weights.sum()))
    assert ends(bootstrap(scalar, 24)) == pytest.approx(ends(bootstrap(mean_of(SKEWED), 24)))
    holed = one_by_one(lambda weights: float("nan") if weights[0] == 0 else float(weights[0]))
    drawn = bootstrap(holed, 24, "percentile", 3000)
    assert 1000 < len(drawn.draws) < 2500
    assert ends(drawn)[0] == 1
    nothing = bootstrap(one_by_one(lambda weights: float("nan")), 5, "bca")
    assert np.isnan([*ends(nothing), nothing.below(0.0), nothing.above(0.0)]).all()


def test_no_difference_anywhere_is_a_point() -> None:
    for method in METHODS:
        assert bootstrap(lambda weights: np.zeros(len(weights)), 9, method).interval() == (0, 0)


def test_draws_that_do_not_reach_so_far_give_no_interval() -> None:
    assert bootstrap(mean_of(SKEWED), 24, "percentile", 100).interval() is None
    assert bootstrap(mean_of(SKEWED), 24, "percentile", 160).interval() is not None
    assert bootstrap(mean_of(SKEWED), 24).interval(0.9995) is None
    few = [bootstrap(mean_of(SKEWED[:clusters]), clusters).interval() for clusters in (2, 5, 6)]
    assert [interval is None for interval in few] == [True, True, False]


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99, 1 - 0.01 / 3])
def test_enough_resamples_leave_draws_beyond_either_end(confidence: float) -> None:
    assert enough(confidence) * (1 - confidence) / 2 >= 15.99
    assert (enough(confidence) == RESAMPLES) == (confidence < 0.984)


def test_faulty_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no spread"):
        bootstrap(mean_of(SKEWED[:1]), 1)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(mean_of(SKEWED), 24).interval(1.5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([1, 10, 50, 90, 99.9, 100]))
def test_a_resampled_ratio_or_change_is_that_of_the_stretches_repeated(seed: int, stretches: int, q: float) -> None:
    random = np.random.default_rng(seed)
    model, reference = (in_stretches(random.integers(1, 9, random.integers(6, 40)), stretches) for _ in range(2))
    ratio, change = (by(model, reference, q, resamples=40) for by in (percentile_ratio, percentile_change))
    ours, theirs = (
        np.array(
            [
                percentile(np.concatenate([np.repeat(s, w) for s, w in zip(side, row, strict=True)]), q)
                for row in np.concatenate([np.ones((1, stretches), np.int64), *resampled(stretches, 40)])
            ]
        )
        for side in (model, reference)
    )
    assert ratio.draws == pytest.approx(np.sort((ours / theirs)[1:]))
    assert change.draws == pytest.approx(np.sort((ours - theirs)[1:]))
    assert (ratio.value, change.value) == (ours[0] / theirs[0], ours[0] - theirs[0])


def test_what_slows_both_models_down_widens_nothing() -> None:
    random = np.random.default_rng(0)
    noise = [np.exp(random.normal(0, 0.05, 400)) for _ in range(2)]
    slow = np.repeat([1.0, 3.0], 200)
    steady = ends(percentile_ratio(in_stretches(noise[0]), in_stretches(noise[1])))
    wave = np.tile(np.repeat([1.0, 1.3], 10), 20)  # within every stretch
    busy = ends(percentile_ratio(in_stretches(noise[0] * wave), in_stretches(noise[1] * wave), 75))
    assert steady[0] < 1 < steady[1]
    assert busy[0] < 1 < busy[1]
    apart = ends(percentile_ratio(in_stretches(noise[0] * slow), in_stretches(noise[1])))
    assert busy[1] - busy[0] < 2 * (steady[1] - steady[0]) < apart[1] - apart[0]


def test_faulty_latencies_are_refused() -> None:
    good = in_stretches(np.arange(1.0, 41.0))
    assert [len(stretch) for stretch in good] == [2] * 20
    faulty: dict[str, list[Any]] = {"of the other": good[:3], "in every stretch": [*good[:19], []]}
    for match, last in (("above 0", np.zeros(3)), ("all of them above 0", np.full(2, np.nan))):
        faulty[match] = [*good[:19], last]
    for match, model in faulty.items():
        with pytest.raises(ValueError, match=match):
            percentile_ratio(model, good)
    with pytest.raises(ValueError, match="percentile"):
        percentile_ratio(good, good, 0)
    with pytest.raises(ValueError, match="stretches"):
        in_stretches([1.0, 2.0])
    with pytest.raises(ValueError, match="spread"):
        percentile_ratio(good[:1], good[:1])
