"""TAR over a list of pairs as a function of how often each of those who are compared counts: pairs share them.

Bolle et al., CVIU 93, 2004; weights as in `identities`. Of the impostors only the highest are weighed, and of those at
most `KEPT`, so that it costs the same for any number of pairs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics.identities import TAIL, Doubles
from kd2edge.metrics.roc import rank_at

Members = npt.NDArray[np.integer]

KEPT = 100_000  # of the highest impostor pairs; where there would be more, a seeded draw of all is ranked instead


class ClusterTar:
    """The exact TAR (see `roc`) of [P] scores, genuine where bool [P] `same`, by FAR.

    `fars` are those of the asked ones that the impostors suffice for. `left` and `right` [P] number the clusters of
    each pair's two sides from 0; `clusters` is how many there are.
    """

    def __init__(
        self, scores: Floats, same: npt.NDArray[np.bool_], left: Members, right: Members, fars: Sequence[float]
    ) -> None:
        self.clusters = int(max(left.max(), right.max())) + 1
        random = np.random.default_rng(0)
        impostors = np.flatnonzero(~same).astype(np.int32)
        self._impostors = len(impostors)
        self._degree = sum(np.bincount(side[impostors], minlength=self.clusters) for side in (left, right))
        self._genuine = _Ranked(scores, left, right, np.flatnonzero(same))
        ranks = {far: rank_at(far, len(impostors)) for far in fars}
        self._tails = {far: _tail(rank, scores, left, right, impostors, random) for far, rank in ranks.items() if rank}
        self.fars = tuple(self._tails)

    def __call__(self, far: float, weights: Ints) -> Doubles:
        """0..1 at one of `fars`, of weights int64 [B, clusters]; NaN for a draw without genuine pairs.

        A pair within a cluster drawn a times weighs a, one of two clusters a b. How many impostors a draw has is taken
        from the first order of its expansion.
        """
        return np.array([self._tar(far, drawn) for drawn in weights], np.float64)

    def _tar(self, far: float, weights: Ints) -> float:
        total, found = max(0, int(weights @ self._degree) - self._impostors), self._genuine.reached(weights)
        if not found[-1]:
            return float("nan")
        tail, one_in = self._tails[far]
        threshold = tail.at(int(far * total / one_in), tail.reached(weights))
        above = np.searchsorted(-self._genuine.scores, np.float32(-threshold))
        return float(found[above - 1] / found[-1]) if above else 0.0


class _Ranked:
    """Some of the pairs, the highest score first."""

    def __init__(self, scores: Floats, left: Members, right: Members, which: Members) -> None:
        which = which[np.argsort(-scores[which], kind="stable")]
        self.scores, self._left, self._right = scores[which], left[which], right[which]
        self._within = self._left == self._right

    def reached(self, weights: Ints) -> Ints:
        """The weight of all pairs down to each."""
        one = weights[self._left]
        return np.asarray(np.cumsum(np.where(self._within, one, one * weights[self._right])))

    def at(self, rank: int, reached: Ints) -> float:
        """The score of the pair of that rank, counted by weight; of the lowest kept where there is none."""
        place = np.searchsorted(reached, max(1, rank))
        return float(self.scores[min(int(place), len(reached) - 1)])


def _tail(
    rank: int, scores: Floats, left: Members, right: Members, impostors: Members, random: np.random.Generator
) -> tuple[_Ranked, int]:
    """`TAIL` times as many of the highest impostors as `rank`, or of one in so many drawn from all."""
    one_in = -(-TAIL * rank // KEPT)
    if one_in > 1:
        impostors = impostors[random.random(len(impostors), np.float32) < 1 / one_in]
    kept = min(len(impostors), TAIL * rank // one_in + 1)
    highest = np.argpartition(scores[impostors], len(impostors) - kept)[len(impostors) - kept :]
    return _Ranked(scores, left, right, impostors[highest]), one_in
