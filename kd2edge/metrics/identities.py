"""All pairs of a set as a function of how often each identity counts, which is what a bootstrap over identities asks.

The pairs of one identity are not independent, nor are those that share one (Bolle et al., "Error analysis of pattern
recognition systems: the subsets bootstrap", CVIU 93, 2004): identities are drawn, a pair of two drawn a and b times
counts a b times, a genuine pair of one drawn a times a times. Of the impostors only the highest are kept, so that a
draw costs as much as a FAR accepts, and 87 million pairs as little as thousands.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics._pairs import AllPairs, refuse_none
from kd2edge.metrics.roc import rank_at

Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.int32]

TAIL = 8  # times as many impostor pairs as the largest FAR accepts are kept, the highest of them
LEAST = 1 << 12  # and so many in any case: where identities are few, a draw of them may ask for far lower ones
STEP = 1 << 14  # pairs weighed at a time: as many as stay in a processor's cache


class IdentityTar:
    """TAR at FARs over all pairs of float32 [N, D] embeddings, genuine where int64 [N] labels agree.

    `identities` is how many there are, `sizes` int64 their numbers of images, `fars` those that the impostor pairs
    suffice for. Raises `UserError` as `verify` does.
    """

    def __init__(self, embeddings: Floats, labels: Ints, fars: Sequence[float]) -> None:
        self.sizes = np.unique(labels, return_counts=True)[1]
        self.identities = len(self.sizes)
        genuine, impostor = pair_counts(self.sizes)
        refuse_none(genuine, impostor)
        self.fars = tuple(far for far in fars if rank_at(far, impostor))
        if not self.fars:
            return
        highest = _Highest(min(impostor, max(LEAST, TAIL * rank_at(max(self.fars), impostor))))
        scores, owners = [], []
        for own, others, owned in AllPairs(embeddings, labels).owned():
            scores.append(own)
            owners.append(owned.genuine)
            highest.add(others, owned.impostors)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        self._genuine, self._owner = np.concatenate(scores)[order], np.concatenate(owners)[order]
        self._impostor, self._left, self._right = highest.ranked()

    def __call__(self, far: float, weights: Ints) -> Doubles:
        """TAR 0..1 strictly above the threshold at which each draw reaches `far`, of weights int64 [B, identities].

        At least one impostor is ranked. NaN for a draw without pairs of both kinds, or that asks for one not kept.
        """
        return np.array([self._tar(far, drawn) for drawn in weights], np.float64)

    def _tar(self, far: float, weights: Ints) -> float:
        impostors, genuine = pair_counts(weights * self.sizes)[1], weights[self._owner]
        if not impostors or not genuine.any():
            return float("nan")
        threshold = self._threshold(weights, max(1, rank_at(far, impostors)))
        if threshold != threshold:
            return threshold
        above = int(np.searchsorted(-self._genuine, np.float32(-threshold)))
        return float(genuine[:above].sum() / genuine.sum())

    def _threshold(self, weights: Ints, rank: int) -> float:
        """The score of the impostor pair of that rank, counted by weight; NaN where it is below those kept."""
        reached = 0
        for start in range(0, len(self._impostor), STEP):
            part = slice(start, start + STEP)
            counts = weights[self._left[part]] * weights[self._right[part]]
            here = int(counts.sum())
            if reached + here >= rank:
                place = int(np.searchsorted(np.cumsum(counts), rank - reached))
                return float(self._impostor[start + place])
            reached += here
        return float("nan")


class IdentityRates:
    """FAR and FRR over all pairs of float32 [N, D] embeddings at a cosine threshold that is frozen.

    `identities` and `sizes` as in `IdentityTar`. Raises `UserError` as `rates_at` does.
    """

    def __init__(self, threshold: float, embeddings: Floats, labels: Ints) -> None:
        if threshold != threshold:
            raise UserError("The threshold is NaN.", "it was taken at a FAR too small for the impostor pairs there are")
        self.sizes = np.unique(labels, return_counts=True)[1]
        self.identities = len(self.sizes)
        refuse_none(*pair_counts(self.sizes))
        self._rejected = np.zeros(self.identities, np.int64)
        codes, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for own, others, owned in AllPairs(embeddings, labels).owned():
            self._rejected += np.bincount(owned.genuine[own <= threshold], minlength=self.identities)
            left, right = owned.impostors(np.flatnonzero(others > threshold))
            code, count = np.unique(left * self.identities + right, return_counts=True)
            codes.append(code)
            counts.append(count)
        self._left, self._right = np.divmod(np.concatenate(codes), self.identities)
        self._accepted = np.concatenate(counts)

    def far(self, weights: Ints) -> Doubles:
        """The share of impostor pairs strictly above the threshold, 0..1, of weights int64 [B, identities]."""
        sizes = weights * self.sizes
        pairs = (sizes.sum(axis=1) ** 2 - (sizes**2).sum(axis=1)) // 2
        found = np.array([(self._accepted * drawn[self._left]) @ drawn[self._right] for drawn in weights], np.float64)
        return _ratio(found, pairs)

    def frr(self, weights: Ints) -> Doubles:
        """The share of genuine pairs at the threshold or below, 0..1, of weights int64 [B, identities]."""
        return _ratio(weights @ self._rejected, weights @ (self.sizes * (self.sizes - 1) // 2))


def pair_counts(sizes: Ints) -> tuple[int, int]:
    """How many genuine and impostor pairs identities of so many images make, int64 [C]."""
    genuine = int((sizes * (sizes - 1) // 2).sum())
    return genuine, (int(sizes.sum()) ** 2 - int((sizes**2).sum())) // 2


class _Highest:
    """The `kept` highest of the impostor scores that come by, and whose they are; of equal ones any."""

    def __init__(self, kept: int) -> None:
        self._kept, self._lowest, self._held = kept, -np.inf, 0
        self._parts: list[tuple[Floats, Places, Places]] = []

    def add(self, scores: Floats, whose: Callable[[Ints], tuple[Ints, Ints]]) -> None:
        which = np.flatnonzero(scores > self._lowest)
        which = which[_highest(scores[which], self._kept)]
        left, right = whose(which)
        self._parts.append((scores[which], left.astype(np.int32), right.astype(np.int32)))
        self._held += len(which)
        if self._held >= 2 * self._kept:
            held, ones, others = self._all()
            to = _highest(held, self._kept)
            self._parts, self._held = [(held[to], ones[to], others[to])], len(to)
            self._lowest = float(held[to].min())

    def ranked(self) -> tuple[Floats, Ints, Ints]:
        """Scores, the highest first, and the two identities of each."""
        scores, left, right = self._all()
        to = _highest(scores, self._kept)
        to = to[np.argsort(-scores[to])]
        return scores[to], left[to].astype(np.int64), right[to].astype(np.int64)

    def _all(self) -> tuple[Floats, Places, Places]:
        scores, left, right = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return scores, left, right


def _highest(scores: Floats, kept: int) -> Ints:
    """Where the `kept` highest are, in no order."""
    if len(scores) <= kept:
        return np.arange(len(scores))
    return np.asarray(np.argpartition(scores, len(scores) - kept)[len(scores) - kept :])


def _ratio(part: Ints | Doubles, whole: Ints) -> Doubles:
    shares: Doubles = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return shares
