"""Listed pairs as a function of how often each subject counts: pairs of one subject are not independent.

A pair counts as often as the product of its two subjects' draws, a genuine one as often as its one subject's (Snijders
and Borgatti, Connections 22(2), 1999, for pairs of one set; Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 1(2), 2007, arXiv 0712.1111). Every threshold is chosen anew in every draw. Intervals found so are never too
narrow, and too wide where two subjects meet once only: what is noise of that single impostor pair then counts with
three times its variance.
"""

from fractions import Fraction

import numpy as np

from kd2edge.metrics._cosine import Ints
from kd2edge.metrics.listed import Bools, Doubles


class PairWeights:
    """How often each pair counts, of how often each subject does; `subjects` int64 [P, 2] are those of each pair.

    `people` is how many subjects there are.
    """

    def __init__(self, subjects: Ints) -> None:
        known, index = np.unique(subjects, return_inverse=True)
        self.people = len(known)
        self._one, self._other = index.reshape(subjects.shape).T
        self._alone = self._one == self._other

    def __call__(self, weights: Ints) -> Doubles:
        """Float64 [P] of int64 [people]."""
        drawn = weights.astype(np.float64)
        return np.asarray(drawn[self._one] * np.where(self._alone, 1, drawn[self._other]))


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


class WeightedRates:
    """FAR and FRR at a frozen cosine threshold of pairs that count so many times, given as in `WeightedTar`."""

    def __init__(self, threshold: float, cosines: Doubles, same: Bools) -> None:
        self._accepted, self._same = cosines > threshold, same

    def far(self, weights: Doubles) -> float:
        """The share of impostor pairs strictly above the threshold, 0..1; NaN without any."""
        return _share(weights * self._accepted, weights, ~self._same)

    def frr(self, weights: Doubles) -> float:
        """The share of genuine pairs at the threshold or below, 0..1; NaN without any."""
        return _share(weights * ~self._accepted, weights, self._same)


def _share(part: Doubles, whole: Doubles, of: Bools) -> float:
    total = whole[of].sum()
    return float(part[of].sum() / total) if total else float("nan")
