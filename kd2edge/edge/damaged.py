"""Some images of a split, always the same ones, under one kind of damage at one severity."""

import numpy as np

from kd2edge.data import Images, Ints, Split, corrupt
from kd2edge.schema.corruption import CorruptionKind

SEED = 0


class Damaged(Split):
    """The images at positions int64 [N] of a split, decoded and damaged as they are read. It has no protocol."""

    def __init__(self, split: Split, chosen: Ints, kind: CorruptionKind, severity: int) -> None:
        self.labels, self.classes = split.labels[chosen], split.classes
        self.groups = {name: column[chosen] for name, column in split.groups.items()}
        self._split, self._chosen, self._kind, self._severity = split, chosen, kind, severity

    def read(self, index: Ints) -> Images:
        places = self._chosen[index]
        return corrupt(self._split.read(places), self._kind, self._severity, places, SEED)


def sample(split: Split, most: int, whole: bool) -> Ints:
    """At most `most` images of a split, positions int64 [M] ascending, drawn once for all.

    With `whole` all images of so many identities, of two at least, since pairs of both kinds are needed.
    """
    random = np.random.default_rng([SEED, len(split)])
    if not whole:
        return np.sort(random.permutation(len(split))[:most])
    known, counts = np.unique(split.labels, return_counts=True)
    order = random.permutation(len(known))
    taken = max(2, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))
    return np.flatnonzero(np.isin(split.labels, known[order[:taken]]))
