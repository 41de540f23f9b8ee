"""Ship, hold or undecided: what an interval says about a bound.

An interval of confidence c that lies wholly on one side of the bound is wrong about the side with at most (1 - c) / 2:
a number that is beyond its bound, however little, ships that rarely, and one that is within holds that rarely. All
else is undecided, which is an answer of its own: so many more samples would settle it, or none would.

To add them and to judge all again is a second chance to be wrong (Armitage, McPherson and Rowe, Journal of the Royal
Statistical Society A 132(2), 1969): 5 % instead of 2.5 ship on the margin (`benchmarks/verdicts.py`). So the new
samples are judged alone, or every look is at `simultaneous(c, looks)`, with the number of looks settled before the
first.
"""

from dataclasses import dataclass
from math import isnan
from typing import Literal, TypeAlias

from kd2edge.stats.percentiles import Interval
from kd2edge.stats.sample_size import POWER, interval_samples

Says: TypeAlias = Literal["ship", "hold", "undecided"]
Direction: TypeAlias = Literal["at_least", "at_most"]


@dataclass(frozen=True)
class Decision:
    """What is said; if undecided, about how many more samples would let which verdict fall, None if none would."""

    says: Says
    more: int | None = None
    towards: Says | None = None


def decide(interval: Interval | None, bound: float, direction: Direction) -> Says:
    """Ship if the whole interval is "at least" or "at most" the bound, both ends included, hold if none of it is.

    Fails closed: NaN anywhere holds. No interval at all, of too few samples, is undecided; an end may be infinite.
    Raises `ValueError` for an interval whose ends are exchanged or an unknown direction.
    """
    if direction not in ("at_least", "at_most"):
        raise ValueError(f"a bound is at_least or at_most, not {direction}")
    if isnan(bound):
        return "hold"
    if interval is None:
        return "undecided"
    low, high = interval
    if isnan(low) or isnan(high):
        return "hold"
    if low > high:
        raise ValueError(f"an interval from {low} to {high} has its ends exchanged")
    within = (low >= bound, high < bound) if direction == "at_least" else (high <= bound, low > bound)
    return "ship" if within[0] else "hold" if within[1] else "undecided"


def decision(
    value: float,
    interval: Interval,
    bound: float,
    direction: Direction,
    n: int,
    confidence: float = 0.95,
    power: float = POWER,
) -> Decision:
    """`decide`, and where it is undecided what `interval_samples` of n samples expects.

    Raises `ValueError` as both do.
    """
    says = decide(interval, bound, direction)
    if says != "undecided":
        return Decision(says)
    needed = interval_samples(value, interval, bound, n, confidence, power)
    if needed is None:
        return Decision(says)
    ships = value > bound if direction == "at_least" else value < bound
    return Decision(says, max(1, needed - n), "ship" if ships else "hold")
