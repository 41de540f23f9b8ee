"""Cosines of all unordered pairs of a set, block after block: N = 13,180 has 86.9 million, too many to hold at ease."""

from collections.abc import Iterator

import numpy as np

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints, unit

ROWS = 256  # of the score matrix at a time: 13 MB of float32 for 13,000 embeddings


class AllPairs:
    """The pairs of float32 [N, D] embeddings, genuine where int64 [N] labels agree.

    Iterating yields (genuine, impostor) scores, 1-D float32, in blocks. Every iteration multiplies the same blocks, so
    that scores are bit-identical from pass to pass. Raises `UserError` as `unit` does.
    """

    def __init__(self, embeddings: Floats, labels: Ints) -> None:
        order = np.argsort(labels, kind="stable")
        self._unit, self._labels = unit(embeddings, labels)[order], labels[order]

    def __iter__(self) -> Iterator[tuple[Floats, Floats]]:
        for genuine, impostor, _, _ in self._blocks():
            yield genuine, impostor

    def owned(self) -> Iterator[tuple[Floats, Floats, "Owners"]]:
        """As iterating, with who is who in both."""
        numbers = np.unique(self._labels, return_inverse=True)[1]
        for genuine, impostor, start, end in self._blocks():
            yield genuine, impostor, Owners(numbers, start, end)

    def _blocks(self) -> Iterator[tuple[Floats, Floats, int, int | None]]:
        """Genuine and impostor scores, the first row, and the first column of a block of impostors alone.

        With rows in order of label, genuine pairs lie near the diagonal, and the rest of a block needs no mask.
        """
        none = np.empty(0, np.float32)
        for start in range(0, len(self._labels), ROWS):
            rows, labels = self._unit[start : start + ROWS], self._labels[start : start + ROWS]
            end = int(np.searchsorted(self._labels, labels[-1], side="right"))
            near, others = rows @ self._unit[start:end].T, self._labels[start:end]
            genuine = np.triu(labels[:, None] == others, k=1)
            yield near[genuine], near[labels[:, None] < others], start, None
            yield none, (rows @ self._unit[end:].T).ravel(), start, end


class Owners:
    """Whose pairs the scores of one block are: int64 [N] numbers of identities from 0, ascending, one a row."""

    def __init__(self, numbers: Ints, start: int, end: int | None) -> None:
        self._numbers, self._start, self._end = numbers, start, end

    @property
    def genuine(self) -> Ints:
        """The identity of each genuine score."""
        if self._end is not None:
            return np.empty(0, np.int64)
        rows, others = self._near()
        return np.asarray(rows[np.nonzero(np.triu(rows[:, None] == others, k=1))[0]])

    def impostors(self, which: Ints) -> tuple[Ints, Ints]:
        """The two identities of the impostor scores at positions int64 [K]."""
        if self._end is None:
            rows, others = self._near()
            row, column = np.nonzero(rows[:, None] < others)
            return rows[row[which]], others[column[which]]
        row, column = np.divmod(which, len(self._numbers) - self._end)
        return self._numbers[self._start + row], self._numbers[self._end + column]

    def _near(self) -> tuple[Ints, Ints]:
        rows = self._numbers[self._start : self._start + ROWS]
        return rows, self._numbers[self._start : int(np.searchsorted(self._numbers, rows[-1], side="right"))]


def refuse_none(genuine: int, impostor: int) -> None:
    """Raise `UserError` unless there is at least one pair of each kind."""
    if not genuine or not impostor:
        raise UserError(
            f"Verification needs pairs of both kinds; here are {genuine} genuine and {impostor} impostor pairs.",
            "give it two images or more of at least one label, and at least two labels",
        )
