"""McNemar, the score test of paired proportions and early stopping, against scipy and by counting all outcomes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.stats import binom, binomtest, multinomial, norm, t

from kd2edge.stats import _binomial as binomial
from kd2edge.stats import _normal as normal
from kd2edge.stats import (
    drop_below,
    drop_interval,
    drop_score,
    early_stopping_estimate,
    early_stopping_minimum,
    mcnemar,
    share_interval,
)

counts = st.integers(0, 400)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 3000), st.sampled_from([0.001, 0.01, 0.1, 0.5, 0.9, 0.999]))
def test_binomial_tails_are_scipys(k: int, n: int, p: float) -> None:
    assert binomial.cdf(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-9, abs=1e-300)


def test_normal_and_student_points_are_scipys() -> None:
    for z in (-9.0, -3.0, 0.0, 1.5):
        assert normal.below(z) == pytest.approx(norm.cdf(z), rel=1e-12)
        assert normal.quantile(float(norm.cdf(z))) == pytest.approx(z, abs=1e-9)
    for freedom, within in ((4, 2e-3), (10, 5e-5), (19, 5e-6), (400, 1e-8)):
        points = [normal.student(z, freedom) for z in (-1.96, 0.0, 1.2, 2.3)]
        assert points == pytest.approx(t.ppf(norm.cdf([-1.96, 0.0, 1.2, 2.3]), freedom), rel=within, abs=within)
    assert normal.beyond(0.95) == pytest.approx(norm.ppf(0.975))


@settings(deadline=None)
@given(counts, counts)
def test_mcnemar_is_scipys_binomial_test(lost: int, won: int) -> None:
    found, n = mcnemar(lost, won), lost + won
    if n:
        assert found.exact == pytest.approx(binomtest(lost, n).pvalue, rel=1e-9)
        assert found.worse == pytest.approx(binomtest(lost, n, alternative="greater").pvalue, rel=1e-9)
    half = binom.pmf(lost, n, 0.5) / 2
    assert found.worse_mid_p == pytest.approx(binom.sf(lost, n, 0.5) + half, rel=1e-9)
    sides = found.worse_mid_p, mcnemar(won, lost).worse_mid_p
    assert found.mid_p == pytest.approx(2 * min(sides), rel=1e-9)


def test_mcnemar_of_very_many_and_of_none() -> None:
    assert mcnemar(0, 0).exact == mcnemar(0, 0).mid_p == mcnemar(7, 7).exact == mcnemar(7, 7).mid_p == 1
    assert mcnemar(5_000_000, 5_008_000).exact == pytest.approx(2 * norm.cdf(-7999 / 10_008_000**0.5), rel=1e-4)
    assert mcnemar(10_000_000, 0).exact == 0
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 3)


def test_mid_p_keeps_to_its_level_where_the_exact_test_is_timid() -> None:
    for n in (10, 25, 60):
        law = binom.pmf(np.arange(n + 1), n, 0.5)
        levels = [
            sum(p for lost, p in enumerate(law) if getattr(mcnemar(lost, n - lost), name) <= 0.05)
            for name in ("exact", "mid_p")
        ]
        assert levels[0] <= levels[1] <= 0.055


def likelihood_score(lost: int, won: int, n: int, drop: float) -> float:
    """Tango's statistic, its variance found by maximising the likelihood of multinomial counts on the hypothesis."""

    def loss(alone: float) -> float:
        cells = np.array([alone + drop, alone, 1 - 2 * alone - drop])
        return -float(np.array([lost, won, n - lost - won]) @ np.log(np.maximum(cells, 1e-300)))

    found = optimize.minimize_scalar(
        loss, bounds=(max(0.0, -drop), (1 - drop) / 2), method="bounded", options={"xatol": 1e-12}
    )
    return float((lost - won - n * drop) / np.sqrt(n * (2 * found.x + drop - drop**2)))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 300), st.floats(-0.5, 0.5))
def test_the_score_is_that_of_the_likelihood_on_the_hypothesis(lost: int, won: int, both: int, drop: float) -> None:
    n = lost + won + both
    assert drop_score(lost, won, n, drop) == pytest.approx(likelihood_score(lost, won, n, drop), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("lost", "won", "n", "printed"), [(1, 7, 21, (-0.517, -0.026)), (6, 16, 161, (-0.124, -0.005))]
)
def test_the_interval_is_that_of_the_literature(lost: int, won: int, n: int, printed: tuple[float, float]) -> None:
    """Fagerland, Lydersen and Laake, Statistics in Medicine 33(16), 2014: two studies of patients before and after."""
    assert drop_interval(lost, won, n) == pytest.approx(printed, abs=6e-4)


@settings(deadline=None)
@given(counts, counts, st.integers(0, 2000), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_and_test_say_the_same(lost: int, won: int, both: int, confidence: float) -> None:
    n = lost + won + both + 1
    low, high = drop_interval(lost, won, n, confidence)
    assert -1 <= low <= (lost - won) / n <= high <= 1
    mirrored = drop_interval(won, lost, n, confidence)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-9)
    tail = (1 - confidence) / 2
    if high < 1 - 1e-6:
        assert drop_below(lost, won, n, high) == pytest.approx(tail, rel=1e-4)
    if low > -1 + 1e-6:
        assert drop_below(won, lost, n, -low) == pytest.approx(tail, rel=1e-4)


def test_no_disagreement_is_no_proof_of_none() -> None:
    low, high = drop_interval(0, 0, 1000)
    assert high == -low == pytest.approx(1.96**2 / (1000 + 1.96**2), rel=1e-3)
    assert drop_interval(5, 0, 5)[1] == pytest.approx(1)
    assert drop_score(0, 0, 9, 0.0) == 0


@pytest.mark.parametrize(("margin", "won"), [(0.1, 0.0), (0.1, 0.05), (0.05, 0.1), (0.02, 0.01)])
def test_a_model_on_the_margin_ships_no_more_often_than_promised(margin: float, won: float) -> None:
    """The exact level, all outcomes of 80 images counted; the score test is asymptotic, hence the tolerance."""
    n, level = 80, 0.0
    for lost in range(n + 1):
        rest = range(min(n - lost, 25) + 1)
        ships = [drop_below(lost, b, n, margin) < 0.025 for b in rest]
        if any(ships):
            outcomes = [[lost, b, n - lost - b] for b in rest]
            level += float(multinomial.pmf(outcomes, n, [won + margin, won, 1 - 2 * won - margin]) @ np.array(ships))
    assert level <= 0.03


def test_faulty_counts_are_refused() -> None:
    for lost, won, n, margin in (
        (3, 3, 5, 0.1),
        (-1, 0, 5, 0.1),
        (0, 0, 0, 0.1),
        (1, 1, 5, 1.0),
        (1, 1, 5, float("nan")),
    ):
        with pytest.raises(ValueError):
            drop_below(lost, won, n, margin)
    with pytest.raises(ValueError, match="confidence"):
        drop_interval(1, 2, 10, 1.0)


def fewest(q: int, over: int, confidence: float) -> int:
    n = np.arange(6000)
    return int(n[binom.cdf(over, n, (100 - q) / 100) <= 1 - confidence][0])


def test_the_minima_that_mlperf_publishes_follow_from_the_binomial_law() -> None:
    """The slowest of n samples is LoadGen's first estimate, and the one sample that it counts as over it."""
    assert early_stopping_minimum(90) == fewest(90, 1, 0.99) == 64
    assert early_stopping_minimum(99) == fewest(99, 1, 0.99) == 662
    assert early_stopping_minimum(99, over=0) == fewest(99, 0, 0.99) == 459
    assert 0.9**64 + 64 * 0.1 * 0.9**63 <= 0.01 < 0.9**63 + 63 * 0.1 * 0.9**62
    for q, n in ((90, 64), (99, 662)):
        assert early_stopping_estimate(np.arange(n - 1), q) is None
        assert early_stopping_estimate(np.arange(n), q) == n - 1


@settings(deadline=None)
@given(st.sampled_from([50, 90, 95, 99]), st.integers(0, 30), st.sampled_from([0.9, 0.99]))
def test_minima_for_any_number_over_are_the_binomial_laws(q: int, over: int, confidence: float) -> None:
    assert early_stopping_minimum(q, over, confidence) == fewest(q, over, confidence)


@settings(deadline=None)
@given(st.sampled_from([50, 90, 99]), st.integers(1, 5000))
def test_the_estimate_is_the_lowest_sample_that_the_minima_allow(q: int, n: int) -> None:
    found = early_stopping_estimate(np.arange(n)[::-1], q)
    over = int((binom.cdf(np.arange(n + 1), n, (100 - q) / 100) <= 0.01).sum()) - 1
    assert found == (n - over if over >= 1 else None)


def test_the_estimate_is_too_low_as_rarely_as_promised() -> None:
    random, truth = np.random.default_rng(0), -np.log(0.1)
    low = [(early_stopping_estimate(random.exponential(size=300), 90) or 0) < truth for _ in range(2000)]
    assert np.mean(low) <= 0.01


def test_faulty_requests_for_early_stopping_are_refused() -> None:
    for q, over, confidence in ((0, 1, 0.99), (100, 1, 0.99), (90, -1, 0.99), (90, 1, 1.0)):
        with pytest.raises(ValueError):
            early_stopping_minimum(q, over, confidence)
    with pytest.raises(ValueError, match="at least one sample"):
        early_stopping_estimate([], 90)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.995])
def test_wilsons_interval_of_a_share_is_scipys(confidence: float) -> None:
    for right, n in ((0, 5), (3, 3), (7, 30), (9_876, 10_000)):
        expected = binomtest(right, n).proportion_ci(confidence, method="wilson")
        assert share_interval(right / n, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)
    for share, n in ((0.5, 0), (1.5, 3), (float("nan"), 3)):
        with pytest.raises(ValueError, match="cannot be a share"):
            share_interval(share, n)
