"""Intervals of TAR over a list of pairs, by resampling those who are compared, never the pairs, which share them.

Percentile bootstrap over clusters (Bolle et al., CVIU 93, 2004; weights as in `paired`). Of the
impostors only the highest are weighed, and of those at most `KEPT`, so that it costs the same for any number of pairs.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics.paired import RESAMPLES, TAIL
from kd2edge.metrics.roc import rank_at

Interval: TypeAlias = tuple[float, float]
Members: TypeAlias = npt.NDArray[np.integer]

KEPT = 100_000  # of the highest impostor pairs; where there would be more, a seeded draw of all is ranked instead


def tar_intervals(
    scores: Floats, same: npt.NDArray[np.bool_], left: Members, right: Members, fars: Sequence[float]
) -> dict[float, Interval | None]:
    """95 % intervals of the exact TAR (see `roc`), 0..1; None where a FAR asks for less than one impostor pair.

    `left` and `right` [P] number the clusters of each pair's two sides from 0. A pair within a cluster drawn a times
    weighs a, one of two clusters a b. How many impostors a resample has is taken from the first order of its expansion.
    """
    clusters = int(max(left.max(), right.max())) + 1
    random = np.random.default_rng(0)
    impostors = np.flatnonzero(~same).astype(np.int32)
    degree = sum(np.bincount(side[impostors], minlength=clusters) for side in (left, right))
    genuine = _Ranked(scores, left, right, np.flatnonzero(same))
    tails = {far: _tail(rank_at(far, len(impostors)), scores, left, right, impostors, random) for far in fars}
    drawn: dict[float, list[float]] = {far: [] for far, tail in tails.items() if tail}
    for _ in range(RESAMPLES if drawn else 0):
        weights = random.multinomial(clusters, np.full(clusters, 1 / clusters))
        total, found = max(0, int(weights @ degree) - len(impostors)), genuine.reached(weights)
        for far in drawn:
            tail, one_in = tails[far] or (genuine, 1)
            threshold = tail.at(int(far * total / one_in), tail.reached(weights))
            above = np.searchsorted(-genuine.scores, np.float32(-threshold))
            drawn[far].append(float(found[above - 1] / max(1, found[-1])) if above else 0.0)
    return {far: _interval(drawn[far]) if far in drawn else None for far in fars}


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
) -> tuple[_Ranked, int] | None:
    """`TAIL` times as many of the highest impostors as `rank`, or of one in so many drawn from all."""
    if not rank:
        return None
    one_in = -(-TAIL * rank // KEPT)
    if one_in > 1:
        impostors = impostors[random.random(len(impostors), np.float32) < 1 / one_in]
    kept = min(len(impostors), TAIL * rank // one_in + 1)
    highest = np.argpartition(scores[impostors], len(impostors) - kept)[len(impostors) - kept :]
    return _Ranked(scores, left, right, impostors[highest]), one_in


def _interval(drawn: list[float]) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
