"""What a number would have been with other clusters: the bootstrap over subjects, templates or stretches of time.

Clusters are drawn with replacement and never what lies within them, so that the dependence in there is kept (Davison
and Hinkley, Bootstrap Methods and their Application, section 3.8; for pairs of subjects the product of their weights
is what a pair weighs: see `metrics.subjects`). The statistic is a function of the clusters' weights, which need only
be counts of how often each was drawn; a paired difference is the difference of two statistics at the same weights.
Intervals are

* `percentile`: the quantiles of the draws (Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3);
* `expanded`: the same, further out by sqrt(k / (k - 1)) times Student's quantile over the normal one, which makes good
  what draws from k clusters lack in spread (Hesterberg, The American Statistician 69(4), 2015): the default;
* `bca`: corrected for bias and skewness, which costs one evaluation a cluster more (Efron and Tibshirani, section
  14.3).

They all know only what was seen: where no cluster shows any difference, every draw is zero and so is the interval, and
of 20 clusters hit very unevenly the worst may be missing, so that 4 % instead of 2.5 ship on the margin; of 100 with
less uneven ones it is as it should be (`benchmarks/verdicts.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from kd2edge.stats._normal import below, beyond, quantile, student
from kd2edge.stats.percentiles import Interval

Doubles: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]
Statistic: TypeAlias = Callable[[Counts], Doubles]
Method: TypeAlias = Literal["percentile", "expanded", "bca"]

RESAMPLES = 2000
AT_ONCE = 1 << 20  # weights handed over together: 8 MB
BEYOND = 4  # draws that must lie beyond either end of an interval
FARTHEST = 8.0  # standard deviations, beyond which no p-value of so few draws reaches


@dataclass(frozen=True)
class Bootstrap:
    """A statistic's value and its draws, float64 [R] from the lowest up, NaN left out; an interval of any confidence.

    `bias` and `acceleration` are those of BCa, `freedom` the degrees of Student's law for `expanded`.
    """

    value: float
    draws: Doubles
    bias: float = 0.0
    acceleration: float = 0.0
    freedom: int | None = None

    def interval(self, confidence: float = 0.95) -> Interval | None:
        """Equal tails; both ends are NaN if all draws are. Raises `ValueError` for a confidence outside (0, 1).

        None where hardly a draw lies beyond the ends: more are needed, or, of six clusters and fewer, more clusters.
        """
        reach = beyond(confidence)
        if not len(self.draws):
            return float("nan"), float("nan")
        tail = below(self._level(-reach) if self.freedom else -reach)
        if round(len(self.draws) * tail, 6) < BEYOND:
            return None
        low, high = np.quantile(self.draws, [below(self._level(z)) for z in (-reach, reach)])
        return float(low), float(high)

    def below(self, bound: float) -> float:
        """The one-sided p-value of "it is `bound` or more", by the interval that just ends there; NaN without
        draws.
        """
        return self._tail(float(np.searchsorted(self.draws, bound, "left")), -1)

    def above(self, bound: float) -> float:
        """The one-sided p-value of "it is `bound` or less", by the interval that just begins there."""
        return self._tail(float(np.searchsorted(self.draws, bound, "right")), 1)

    def _tail(self, under: float, sign: int) -> float:
        if not len(self.draws):
            return float("nan")
        share = min(max(under, 1.0), len(self.draws) - 1.0) / len(self.draws)  # no p-value is less than one draw's
        return below(sign * self._of_level(quantile(share)))

    def _level(self, z: float) -> float:
        """Which quantile of the draws, as a normal one, ends an interval of normal reach z."""
        if self.freedom is not None:
            return sqrt((self.freedom + 1) / self.freedom) * student(z, self.freedom)
        shifted = self.bias + z
        return self.bias + shifted / (1 - self.acceleration * shifted)

    def _of_level(self, level: float) -> float:
        if self.freedom is None:
            shifted = level - self.bias
            return shifted / (1 + self.acceleration * shifted) - self.bias
        low, high = -FARTHEST, FARTHEST
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self._level(middle) < level else (low, middle)
        return (low + high) / 2


def bootstrap(
    statistic: Statistic, clusters: int, method: Method = "expanded", resamples: int = RESAMPLES, seed: int = 0
) -> Bootstrap:
    """Resample `clusters` >= 2. `statistic` maps weights int64 [B, clusters] to float64 [B], row by row.

    The same seed draws the same weights whatever the statistic, so that numbers of one set of clusters go together.
    Raises `ValueError` for fewer clusters.
    """
    if clusters < 2:
        raise ValueError(f"{clusters} clusters show no spread between clusters")
    value = float(statistic(np.ones((1, clusters), np.int64))[0])
    draws = np.concatenate([statistic(weights) for weights in resampled(clusters, resamples, seed)])
    draws = np.sort(draws[~np.isnan(draws)]).astype(np.float64)
    if method == "expanded":
        return Bootstrap(value, draws, freedom=clusters - 1)
    if method == "percentile" or not len(draws):
        return Bootstrap(value, draws)
    return Bootstrap(value, draws, _bias(value, draws), _acceleration(statistic, clusters))


def resampled(clusters: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Counts]:
    """Weights int64 [B, clusters], block by block: how often each cluster is among as many drawn with replacement."""
    random, at_once = np.random.default_rng(seed), max(1, AT_ONCE // clusters)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = random.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)


def enough(confidence: float) -> int:
    """How many resamples an interval asks for: `RESAMPLES`, more where hardly any would lie beyond its ends.

    Raises `ValueError` for a confidence outside (0, 1).
    """
    return max(RESAMPLES, ceil(4 * BEYOND / below(-beyond(confidence))))


def one_by_one(statistic: Callable[[Counts], float]) -> Statistic:
    """A statistic of blocks of weights from one of weights int64 [clusters]."""
    return lambda block: np.array([statistic(weights) for weights in block])


def _bias(value: float, draws: Doubles) -> float:
    """How far the draws' median is from the value, in normal units; draws equal to the value are halved."""
    under = (np.searchsorted(draws, value, "left") + np.searchsorted(draws, value, "right")) / 2
    return quantile(min(max(float(under), 0.5), len(draws) - 0.5) / len(draws))


def _acceleration(statistic: Statistic, clusters: int) -> float:
    """The skewness of the statistic with one cluster left out, over six; 0 where it never changes."""
    at_once, everyone = max(1, AT_ONCE // clusters), np.arange(clusters)
    blocks = (everyone[start : start + at_once] for start in range(0, clusters, at_once))
    left = np.concatenate([statistic((everyone != out[:, None]).astype(np.int64)) for out in blocks])
    apart = left.mean() - left
    spread = float((apart**2).sum())
    return float((apart**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
