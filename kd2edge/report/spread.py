"""Means and deviations over seeds, and how one row's are held against another's."""

import math
import statistics
from collections.abc import Sequence

from kd2edge.schema import Section


class Spread(Section):
    """Mean and standard deviation (of a sample: n - 1) of n values; one value has no deviation."""

    mean: float
    std: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """None of no values."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), std=std, n=len(values))


def pooled_std(one: Spread, other: Spread) -> float | None:
    """sqrt((s1² (n1 - 1) + s2² (n2 - 1)) / (n1 + n2 - 2)); None where that divides by zero."""
    degrees = one.n + other.n - 2
    squares = sum((each.std or 0.0) ** 2 * (each.n - 1) for each in (one, other))
    return math.sqrt(squares / degrees) if degrees else None


def distance(one: Spread, other: Spread) -> float | None:
    """How many pooled standard deviations `one` lies above `other`; None where there is no deviation to count in."""
    pooled = pooled_std(one, other)
    return (one.mean - other.mean) / pooled if pooled else None


def gap_closed(value: float, plain: float, teacher: float, better: str = "higher") -> float | None:
    """(value - plain) / (teacher - plain) in %; None where the teacher is no better than plain: there is no gap."""
    gap = teacher - plain
    return 100 * (value - plain) / gap if (gap > 0 if better == "higher" else gap < 0) else None
