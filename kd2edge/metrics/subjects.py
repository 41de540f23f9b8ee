"""Intervals for listed pairs, by resampling the subjects that they show: pairs of one subject are not independent.

Percentile bootstrap: of n subjects n are drawn with replacement, and a pair counts as often as the product of its two
subjects' draws, a genuine one as often as its one subject's (Snijders and Borgatti, Connections 22(2), 1999, for pairs
of one set; Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007, arXiv 0712.1111). Every threshold
is chosen anew in every resample. Seeds are fixed. Such intervals are never too narrow, and too wide where two subjects
meet once only: what is noise of that single impostor pair then counts with three times its variance.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from kd2edge.metrics._cosine import Ints
from kd2edge.metrics.listed import Bools, Doubles

RESAMPLES = 1000
TAILS = (0.025, 0.975)
AT_ONCE = 50  # resamples drawn together: 1.6 MB for 4,000 subjects


def intervals(statistics: Callable[[Doubles], Doubles], subjects: Ints) -> Doubles:
    """The 2.5 % and 97.5 % points, float64 [2, S], of S statistics of the pairs' weights float64 [P].

    `subjects` int64 [P, 2] are those of each pair. A resample in which a statistic is NaN is left out of its interval,
    which is NaN where all are.
    """
    found = np.array([statistics(weights) for weights in _resampled(subjects)])
    known = (values[np.isfinite(values)] for values in found.T)
    limits = np.array([np.quantile(values, TAILS) if len(values) else (np.nan, np.nan) for values in known])
    return np.asarray(limits.T, np.float64)


def _resampled(subjects: Ints) -> Iterator[Doubles]:
    people, index = np.unique(subjects, return_inverse=True)
    one, other = index.reshape(subjects.shape).T
    alone = one == other
    random = np.random.default_rng(0)
    for _ in range(RESAMPLES // AT_ONCE):
        for draws in random.multinomial(len(people), np.full(len(people), 1 / len(people)), AT_ONCE).astype(float):
            yield draws[one] * np.where(alone, 1, draws[other])


class WeightedTar:
    """TAR at a FAR of pairs that count so many times: cosines float64 [P], genuine where bool [P] `same`."""

    def __init__(self, cosines: Doubles, same: Bools, far: float) -> None:
        genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
        self._genuine = genuine[np.argsort(-cosines[genuine])]
        self._impostor = impostor[np.argsort(-cosines[impostor])]
        self._above = np.searchsorted(-cosines[self._genuine], -cosines[self._impostor])  # genuine above each impostor
        self._far = Fraction(str(far))

    def __call__(self, weights: Doubles) -> float:
        """0..1 as `verify_pairs` has it, each pair repeated, by one impostor at the least; NaN without pairs."""
        reached = np.cumsum(weights[self._impostor])
        accepted = np.append(0, np.cumsum(weights[self._genuine]))
        rank = max(1, int(self._far * int(reached[-1])))
        if reached[-1] < rank or not accepted[-1]:
            return float("nan")
        return float(accepted[self._above[np.searchsorted(reached, rank)]] / accepted[-1])
