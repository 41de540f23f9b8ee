"""Percentiles of measured samples, with intervals that assume no distribution: latencies are skewed and have tails.

The interval lies between two order statistics, chosen by the binomial law of how many samples fall below the true
percentile (David and Nagaraja, Order Statistics, 3rd ed., section 7.1).
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = Sequence[float] | npt.NDArray[np.floating] | npt.NDArray[np.integer]
Interval: TypeAlias = tuple[float, float]


def percentile(samples: Samples, q: float) -> float:
    """The nearest-rank percentile, 0 < q <= 100: the ceil(q n / 100)-th smallest sample, always one that was measured.

    Raises `ValueError` if there are no samples, one is NaN, or q is out of range.
    """
    rising = ordered(samples)
    if not 0 < q <= 100:
        raise ValueError(f"a percentile lies in (0, 100], not at {q}")
    return float(rising[ceil(Fraction(str(q)) * len(rising) / 100) - 1])


def median(samples: Samples) -> float:
    """The middle sample, or the mean of the two middle ones. Raises `ValueError` as `percentile` does."""
    return float(np.median(ordered(samples)))


def percentile_interval(samples: Samples, q: float, confidence: float = 0.95) -> Interval | None:
    """Two samples between which the true q-th percentile lies with at least this confidence, 0 < q < 100.

    At most (1 - confidence) / 2 is left on either side. None where n is too small for that: the 99th percentile at
    0.95 needs 368 samples, the median 6. Raises `ValueError` as `percentile` does.
    """
    rising = ordered(samples)
    if not (0 < q < 100 and 0 < confidence < 1):
        raise ValueError(f"no interval for the percentile {q} at confidence {confidence}")
    tail = (1 - confidence) / 2
    at_most = _binomial_cdf(len(rising), q / 100)  # P(at most i samples below the percentile), i = 0..n
    # x_(lower) overshoots the percentile if fewer than `lower` samples are below it, x_(upper) falls short if
    # `upper` or more are; ranks count from 1.
    lower = int(np.searchsorted(at_most, tail, side="right"))
    upper = int(np.searchsorted(at_most, 1 - tail, side="left")) + 1
    if lower < 1 or upper > len(rising):
        return None
    return float(rising[lower - 1]), float(rising[upper - 1])


def _binomial_cdf(n: int, p: float) -> npt.NDArray[np.float64]:
    """P(X <= i) for i = 0..n, X binomial(n, p), summed in logarithms since n! overflows at 171."""
    i = np.arange(n + 1)
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, n + 1))))
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    return np.cumsum(np.exp(log_choose + i * np.log(p) + (n - i) * np.log1p(-p)))


def ordered(samples: Samples) -> npt.NDArray[np.float64]:
    """The samples from the lowest up. Raises `ValueError` if there are none or one is NaN."""
    rising = np.sort(np.asarray(samples, np.float64))
    if rising.ndim != 1 or not len(rising) or np.isnan(rising[-1]):
        raise ValueError("statistics need a list of at least one sample, none of them NaN")
    return rising
