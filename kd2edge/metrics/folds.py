"""Listed pairs judged fold by fold: each fold by a threshold that was chosen on all the others.

`insightface` is the protocol of insightface's verification.py, which LFW, CFP-FP and AgeDB figures follow: thresholds
are a grid, and VAL at a FAR interpolates between grid points. `exact` has the observed distances for thresholds. Pairs
are accepted below a threshold, strictly, and of equally good thresholds the strictest is taken, in both. A fold is
P / K consecutive pairs, the first ones one longer where P is no multiple of K, as scikit-learn's KFold has them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Ints
from kd2edge.metrics.listed import Bools, Doubles

Mode = Literal["exact", "insightface"]

GRID = np.arange(0, 4, 0.01)  # of insightface, for accuracies
FINE_GRID = np.arange(0, 4, 0.001)  # of insightface, for VAL


@dataclass(frozen=True)
class Val:
    """Shares of genuine pairs accepted, and of impostor pairs, in each held-out fold; float64 [K]."""

    val: Doubles
    far: Doubles


class Folds:
    """Squared distances float64 [P] of pairs in K folds, genuine where bool [P] `same`.

    Raises `UserError` for distances that are not finite, and for a fold without genuine or without impostor pairs.
    """

    def __init__(self, squared: Doubles, same: Bools, folds: int = 10, mode: Mode = "exact") -> None:
        _refuse(squared, same, folds)
        self.same, self.number, self.fold = same, folds, _fold_of(len(same), folds)
        self.squared = squared
        self.grid = GRID if mode == "insightface" else np.append(np.unique(squared), np.inf)
        self._code = np.searchsorted(self.grid, squared, side="right")  # the first threshold that accepts each pair
        self._allowed = None if mode == "insightface" else self._observed_elsewhere()

    def accuracies(self, weights: Doubles | None = None) -> Doubles:
        """The share of pairs decided rightly in each fold, float64 [K]; NaN in one whose pairs all weigh nothing.

        `weights` float64 [P] are how many times each pair counts: once where they are left out.
        """
        counts = np.ones(len(self.same)) if weights is None else weights
        right = self._running(np.where(self.same, counts, -counts)) + self._sums(counts * ~self.same)[:, None]
        elsewhere = right.sum(0) - right
        if self._allowed is not None:
            elsewhere[~self._allowed] = -1
        best = np.argmax(elsewhere, axis=1)
        found, total = right[np.arange(self.number), best], self._sums(counts)
        shares: Doubles = np.divide(found, total, out=np.full(self.number, np.nan), where=total > 0)
        return shares

    def val(self, far: float = 1e-3) -> Val:
        """Insightface's VAL: the threshold at which the other folds' FAR reaches `far`, between two grid points.

        It is 0, which accepts nothing, where their FAR stays below. The field's code interpolates by SciPy's linear
        spline with duplicate abscissae, which SciPy refuses by now (deepinsight/insightface#2152): of equal FARs the
        last counts, as it did.
        """
        code = np.searchsorted(FINE_GRID, self.squared, side="right")
        accepted = self._running(~self.same, code, len(FINE_GRID))
        impostors = self._sums(~self.same)
        rates = (accepted.sum(0) - accepted) / (impostors.sum() - impostors)[:, None]
        threshold = np.array([_interpolated(row, far) for row in rates])
        below = self.squared < threshold[self.fold]
        return Val(
            self._sums(below & self.same) / self._sums(self.same),
            self._sums(below & ~self.same) / impostors,
        )

    def _sums(self, values: Doubles | Bools) -> Doubles:
        """By fold, [K]; whole numbers below 2^53, hence exact."""
        return np.asarray(np.bincount(self.fold, values.astype(np.float64), self.number), np.float64)

    def _running(self, values: Doubles | Bools, code: Ints | None = None, thresholds: int | None = None) -> Doubles:
        """The sum of `values` over the pairs that each threshold accepts, by fold, [K, T]."""
        at, width = (self._code if code is None else code), (thresholds or len(self.grid)) + 1
        table = np.bincount(self.fold * width + at, values.astype(np.float64), self.number * width)
        return np.asarray(np.cumsum(table.reshape(self.number, width)[:, :-1], axis=1), np.float64)

    def _observed_elsewhere(self) -> Bools:
        """Which thresholds a fold may be judged by, [K, T]: those observed in the others, or one that accepts all."""
        of_fold = np.zeros((self.number, len(self.grid)), np.int64)
        np.add.at(of_fold, (self.fold, self._code - 1), 1)
        allowed = of_fold.sum(0) > of_fold
        allowed[:, -1] = True
        return np.asarray(allowed)


def _fold_of(pairs: int, folds: int) -> Ints:
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def _refuse(squared: Doubles, same: Bools, folds: int) -> None:
    if not np.isfinite(squared).all():
        raise UserError(f"{np.count_nonzero(~np.isfinite(squared))} of {len(squared)} pair distances are not finite.")
    if len(same) < folds:
        raise UserError(f"{len(same)} pairs cannot be judged in {folds} folds.", "list more pairs, or set data.folds")
    fold = _fold_of(len(same), folds)
    for number, (genuine, pairs) in enumerate(zip(np.bincount(fold, same), np.bincount(fold), strict=True), 1):
        if genuine in (0, pairs):
            raise UserError(
                f"Fold {number} of {folds} needs pairs of both kinds; "
                f"it has {genuine:.0f} genuine and {pairs - genuine:.0f} impostor pairs.",
                "a fold is so many consecutive pairs of the list: mix the kinds in it, or set data.folds",
            )


def _interpolated(rates: Doubles, far: float) -> float:
    """The point of the fine grid at which ascending FARs reach `far`; 0 where they do not."""
    last = int(np.searchsorted(rates, far, side="right")) - 1
    if last == len(rates) - 1:
        return float(FINE_GRID[last]) if rates[last] == far else 0.0
    low, high = rates[last], rates[last + 1]
    return float(FINE_GRID[last] + (far - low) / (high - low) * (FINE_GRID[last + 1] - FINE_GRID[last]))
