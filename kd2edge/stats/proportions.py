"""How much of a proportion a model loses against another on the same images, with a test for "not too much".

Tango's score test and the interval that inverts it (Statistics in Medicine 17(8), 1998; as a test of non-inferiority,
Liu et al., Statistics in Medicine 21(2), 2002): the variance is the one that the hypothesis allows at most likely, not
the observed one, so that it stays right where two models disagree on few images or none. Newcombe's method 10 covers
as well but inverts no test, so that its interval and a p-value may contradict each other; these cannot.

A drop is the reference's proportion less the model's, -1..1: positive is a loss. `lost` images the reference alone
gets right, `won` the model alone, of n independent ones; where they come in clusters, `resampling` is for them.
"""

from collections.abc import Callable
from math import copysign, inf, sqrt

from kd2edge.stats._normal import below, beyond
from kd2edge.stats.percentiles import Interval

HALVINGS = 50  # of an interval no longer than 2: to the precision of a double near 1


def share_interval(share: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (JASA 22, 1927) of a proportion 0..1 that was observed in n independent images.

    Raises `ValueError` for a share that cannot be, n < 1 or a confidence outside (0, 1).
    """
    if not (0 <= share <= 1 and n >= 1):
        raise ValueError(f"{share} cannot be a share of {n} images")
    squared = beyond(confidence) ** 2
    spread = sqrt(squared * share * (1 - share) / n + (squared / (2 * n)) ** 2)
    middle = share + squared / (2 * n)
    low, high = ((middle + side * spread) / (1 + squared / n) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def drop_score(lost: int, won: int, n: int, drop: float) -> float:
    """Tango's statistic: standard normal if the true drop is `drop`, -1 < drop < 1, and negative if it is less.

    Raises `ValueError` for counts that cannot be or a drop out of range.
    """
    _check(lost, won, n)
    if not -1 < drop < 1:
        raise ValueError(f"a drop lies between -1 and 1, not at {drop}")
    return _score(lost, won, n, drop)


def drop_interval(lost: int, won: int, n: int, confidence: float = 0.95) -> Interval:
    """All drops that `drop_score` does not reject, two-sided. Raises `ValueError` as it does, or for the
    confidence.
    """
    _check(lost, won, n)
    reach, estimate = beyond(confidence), (lost - won) / n
    low = _root(lambda drop: _score(lost, won, n, drop) > reach, -1.0, estimate)
    high = _root(lambda drop: _score(lost, won, n, drop) >= -reach, estimate, 1.0)
    return low, high


def drop_below(lost: int, won: int, n: int, margin: float) -> float:
    """The one-sided p-value of "the drop is `margin` or more": small where the model is not inferior by that much.

    It is less than (1 - c) / 2 exactly where `drop_interval` at confidence c ends below the margin. For "the drop is
    `margin` or less" exchange the counts and negate the margin. Raises `ValueError` as `drop_score` does.
    """
    return below(drop_score(lost, won, n, margin))


def null_variance(lost: float, won: float, n: float, drop: float) -> float:
    """The variance of one image's loss, -1, 0 or 1, most likely among those of mean `drop`."""
    a, b, c = 2 * n, -lost - won + (2 * n - lost + won) * drop, -won * drop * (1 - drop)
    root = sqrt(max(0.0, b * b - 4 * a * c))
    won_alone = -2 * c / (root + b) if b > 0 else (root - b) / (2 * a)  # no difference of near equals
    return max(0.0, 2 * won_alone + drop * (1 - drop))


def _score(lost: int, won: int, n: int, drop: float) -> float:
    distance, variance = lost - won - n * drop, n * null_variance(lost, won, n, drop)
    if variance > 0:
        return distance / sqrt(variance)
    return copysign(inf, distance) if distance else 0.0


def _root(left_of: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if left_of(middle) else (low, middle)
    return (low + high) / 2


def _check(lost: int, won: int, n: int) -> None:
    if not (min(lost, won) >= 0 and lost + won <= n and n >= 1):
        raise ValueError(f"{lost} lost and {won} won cannot be of {n} images")
