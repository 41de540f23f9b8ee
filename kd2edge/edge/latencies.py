"""Two rows' timings compared: rounds of fresh processes took turns, so that a machine which slowed down slowed both.

What is resampled is stretches of time, some twenty in all, a round's of one row beside those of the same round of the
other (see `stats.ratio`). What differs from process to process is seen as often as there are rounds: the intervals are
about these processes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from kd2edge import stats

Nanoseconds = npt.NDArray[np.int64]
Rounds = Sequence[Nanoseconds]
Stretches = list[npt.NDArray[np.float64]]
Statistic = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]

STRETCHES = 20
PERCENTILES = {"latency_p50": 50, "latency_p90": 90, "latency_p99": 99}
MEANS = ("latency_mean", "throughput")


def in_stretches(*rows: Rounds) -> list[Stretches]:
    """The rounds of each row in ms, cut into the same stretches: `STRETCHES` in all or a few more, fewer if they must.

    None at all where the rows have other numbers of rounds, or a round no samples.
    """
    rounds = len(rows[0])
    samples = min((len(taken) for row in rows for taken in row), default=0)
    if not samples or any(len(row) != rounds for row in rows):
        return [[] for _ in rows]
    pieces = min(samples, -(-STRETCHES // rounds))
    return [[cut for taken in row for cut in stats.in_stretches(taken / 1e6, pieces)] for row in rows]


def compared(
    metric: str, ours: Rounds, theirs: Rounds, ratio: bool, batch: int, confidence: float
) -> tuple[stats.Interval | None, int, str] | None:
    """The interval of the ratio or change of a timing, of how many stretches, and how it was found.

    Rounds are latencies in ns, int64 [n] each. None for another metric, and for fewer than two stretches.
    """
    one, other = in_stretches(ours, theirs)
    if len(one) < 2 or not (metric in PERCENTILES or metric in MEANS):
        return None
    resamples = stats.enough(confidence)
    if metric in PERCENTILES:
        by = stats.percentile_ratio if ratio else stats.percentile_change
        drawn = by(one, other, PERCENTILES[metric], resamples=resamples)
    else:
        mine, its = (_of_mean(metric, stretches, batch) for stretches in (one, other))
        drawn = stats.bootstrap(_both(mine, its, ratio), len(one), resamples=resamples)
    how = f"{resamples:,} resamples of {len(one)} stretches of time in {len(ours)} rounds that took turns"
    return _about(drawn, confidence), len(one), how


def mean_interval(metric: str, rounds: Rounds, batch: int, confidence: float) -> stats.Interval | None:
    """The interval of `latency_mean` in ms, or of `throughput` in images a second; None for too few stretches."""
    (stretches,) = in_stretches(rounds)
    if len(stretches) < 2:
        return None
    mean, resamples = _of_mean(metric, stretches, batch), stats.enough(confidence)
    return _about(stats.bootstrap(mean, len(stretches), resamples=resamples), confidence)


def _of_mean(metric: str, stretches: Stretches, batch: int) -> Statistic:
    total, n = np.array([stretch.sum() for stretch in stretches]), np.array([len(stretch) for stretch in stretches])
    if metric == "throughput":
        return lambda weights: 1e3 * batch * (weights @ n) / (weights @ total)
    return lambda weights: (weights @ total) / (weights @ n)


def _both(mine: Statistic, its: Statistic, ratio: bool) -> Statistic:
    return (lambda w: mine(w) / its(w)) if ratio else (lambda w: mine(w) - its(w))


def _about(drawn: stats.Bootstrap, confidence: float) -> stats.Interval | None:
    """The interval, and the value within it."""
    found = drawn.interval(confidence)
    return found and (min(found[0], drawn.value), max(found[1], drawn.value))
