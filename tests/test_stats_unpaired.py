"""Differences of numbers measured apart, against published figures, brute force and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd2edge.stats import share_interval, unpaired_change, unpaired_ratio

ENDS = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3).map(sorted)


@pytest.mark.parametrize(
    ("one", "other", "interval"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 10), (0.6075, 1.0)),
        ((10, 10), (0, 20), (0.6791, 1.0)),
    ],
)
def test_of_two_shares_it_is_newcombes_method_10(
    one: tuple[int, int], other: tuple[int, int], interval: tuple[float, float]
) -> None:
    """Examples of Newcombe, Statistics in Medicine 17(8), 1998, table II, made of two intervals of Wilson."""
    shares = [right / n for right, n in (one, other)]
    wilson = [share_interval(share, n) for share, (_, n) in zip(shares, (one, other), strict=True)]
    assert unpaired_change(shares[0], wilson[0], shares[1], wilson[1]) == pytest.approx(interval, abs=5e-5)


@given(ours=ENDS, theirs=ENDS)
def test_it_holds_the_difference_and_turns_round_with_it(ours: list[float], theirs: list[float]) -> None:
    one, other = (ours[1], (ours[0], ours[2])), (theirs[1], (theirs[0], theirs[2]))
    low, high = unpaired_change(*one, *other)
    assert low <= one[0] - other[0] <= high
    assert unpaired_change(*other, *one) == pytest.approx((-high, -low))
    assert high - low >= max(ours[2] - ours[0], theirs[2] - theirs[0]) * (1 - 1e-9)
    least, most = unpaired_ratio(*one, *other) or (math.nan, math.nan)
    assert least * (1 - 1e-9) <= one[0] / other[0] <= most * (1 + 1e-9)
    assert unpaired_ratio(*other, *one) == pytest.approx((1 / most, 1 / least))


def test_a_reference_that_is_known_leaves_the_interval_as_it_is() -> None:
    assert unpaired_change(5.0, (4.0, 7.0), 3.0, (3.0, 3.0)) == (1.0, 4.0)
    assert unpaired_ratio(6.0, (4.0, 9.0), 2.0, (2.0, 2.0)) == pytest.approx((2.0, 4.5))


def test_of_normal_means_it_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    spreads = np.array([1.0, 0.3])
    seen = random.normal((2.0, 1.5), spreads, (4000, 2))
    hits = 0
    for value, reference in seen:
        ends = [
            (float(x - 1.959964 * s), float(x + 1.959964 * s)) for x, s in zip((value, reference), spreads, strict=True)
        ]
        low, high = unpaired_change(float(value), ends[0], float(reference), ends[1])
        hits += low <= 0.5 <= high
    assert abs(hits / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_what_has_no_interval_is_refused() -> None:
    for value, interval in ((3.0, (1.0, 2.0)), (1.5, (2.0, 1.0)), (math.nan, (1.0, 2.0)), (1.5, (math.nan, 2.0))):
        with pytest.raises(ValueError, match="not within"):
            unpaired_change(value, interval, 1.0, (0.5, 1.5))
        with pytest.raises(ValueError, match="not within"):
            unpaired_ratio(1.0, (0.5, 1.5), value, interval)
    assert unpaired_ratio(1.0, (0.0, 2.0), 1.0, (0.5, 2.0)) is None
    assert unpaired_ratio(1.0, (0.5, 2.0), 0.0, (-0.5, 2.0)) is None
    assert unpaired_ratio(1.0, (1e-300, 1e300), 1.0, (1e-300, 1e300)) == (0.0, math.inf)
