"""By how much two numbers differ that were measured apart, from the interval of each, by whatever method it came.

The method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27(10), 2008): on either side of the
difference, the errors are how far the two intervals reach that way, and add as squares. It takes them for independent;
of two numbers from the same samples, whose errors go together, the interval is wider than it need be.
"""

from math import exp, hypot, inf, log

from kd2edge.stats.percentiles import Interval

LARGEST = 709.0  # of which exp is still a double


def unpaired_change(value: float, interval: Interval, reference: float, other: Interval) -> Interval:
    """The interval of value - reference, at the confidence of both intervals, which is for the caller to keep the same.

    Raises `ValueError` for a value that is not within its own interval, NaN included.
    """
    for number, (low, high) in ((value, interval), (reference, other)):
        if not low <= number <= high:
            raise ValueError(f"{number} is not within its interval from {low} to {high}")
    change = value - reference
    return (
        change - hypot(value - interval[0], other[1] - reference),
        change + hypot(interval[1] - value, reference - other[0]),
    )


def unpaired_ratio(value: float, interval: Interval, reference: float, other: Interval) -> Interval | None:
    """The interval of value / reference, by their logarithms; None unless all of both intervals is above 0.

    An end that no double reaches is infinite. Raises `ValueError` as `unpaired_change` does.
    """
    unpaired_change(value, interval, reference, other)
    if min(interval[0], other[0]) <= 0:
        return None
    ours, theirs = (log(interval[0]), log(interval[1])), (log(other[0]), log(other[1]))
    low, high = unpaired_change(log(value), ours, log(reference), theirs)
    return exp(low), exp(high) if high < LARGEST else inf
