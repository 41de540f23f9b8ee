"""Pairs that two models decide otherwise at one threshold: what a compressed model changes for those who are deployed.

A pair counts where the reference is right and the model wrong: a genuine pair that is no longer accepted (strictly
above the threshold), an impostor pair that now is. The furthest moved are the worst.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kd2edge.metrics._cosine import Floats, Ints, unit
from kd2edge.metrics._pairs import ROWS
from kd2edge.metrics.listed import Bools, Doubles, cosines, distances


@dataclass(frozen=True)
class Crossing:
    """Images `one` and `other`, whether they are the `same`, their cosine `before` (the reference's) and `after`."""

    one: int
    other: int
    same: bool
    before: float
    after: float

    @property
    def moved(self) -> float:
        """How far the cosine went the wrong way, > 0."""
        return self.before - self.after if self.same else self.after - self.before


def crossings(embeddings: Floats, reference: Floats, labels: Ints, threshold: float, most: int) -> list[Crossing]:
    """The `most` worst of all pairs of float32 [N, D] and [N, E] embeddings, genuine where int64 [N] labels agree.

    Blocks of the score matrices bound the memory. Raises `UserError` for NaN, infinite or zero embeddings.
    """
    after, before = unit(embeddings, labels), unit(reference, labels)
    worst: list[Crossing] = []
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        scores = before[rows] @ before[start:].T, after[rows] @ after[start:].T
        same = labels[rows, None] == labels[None, start:]
        wrong = np.triu(_wrong(*scores, same, threshold), k=1)
        index = np.argwhere(wrong)
        found = _crossings(index + start, same[wrong], scores[0][wrong], scores[1][wrong], most)
        worst = _worst([*worst, *found], most)
    return worst


def listed_crossings(
    embeddings: Floats, reference: Floats, pairs: Ints, same: Bools, threshold: float, most: int
) -> list[Crossing]:
    """The `most` worst of listed pairs, int64 [P, 2] positions in [N, D] and [N, E], genuine where bool [P] `same`."""
    after, before = (cosines(distances(given, pairs)) for given in (embeddings, reference))
    wrong = _wrong(before, after, same, threshold)
    return _worst(_crossings(pairs[wrong], same[wrong], before[wrong], after[wrong], most), most)


def _wrong(before: Floats | Doubles, after: Floats | Doubles, same: Bools, threshold: float) -> Bools:
    """Where the reference decides as the truth is and the model does not."""
    return np.asarray(((before > threshold) == same) & ((after > threshold) != same))


def _crossings(
    pairs: Ints, same: Bools, before: Floats | Doubles, after: Floats | Doubles, most: int
) -> Iterator[Crossing]:
    """The `most` worst of a block, and of those that tie the first."""
    moved = np.where(same, before - after, after - before)
    for place in np.argsort(-moved, kind="stable")[:most]:
        one, other = pairs[place].tolist()
        yield Crossing(one, other, bool(same[place]), float(before[place]), float(after[place]))


def _worst(found: list[Crossing] | Iterator[Crossing], most: int) -> list[Crossing]:
    return sorted(found, key=lambda pair: (-pair.moved, pair.one, pair.other))[:most]
