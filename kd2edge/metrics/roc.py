"""TAR at low FARs of a long list of scores, by two rules, from the tail of its ROC alone.

`exact`: the threshold is the k-th highest impostor score, k = floor(FAR x impostors), accepted strictly above it, as in
`verification`. `nearest`: as the public IJB scripts have it, the point of scikit-learn's `roc_curve` whose FPR is the
nearest to the FAR, of several at one FPR the one of largest TPR. That curve keeps the corners only, so that the nearest
may lie well off the FAR, and above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import nan

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics._pairs import refuse_none

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

IJB_FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
MARGIN = 1000  # impostors beyond those that the FARs need: the next corner is nearly always among them


@dataclass(frozen=True)
class Roc:
    """By FAR: the exact TAR and its threshold, NaN where k = 0; the TAR of the nearest point, and that point's FPR."""

    tar: dict[float, float]
    threshold: dict[float, float]
    nearest_tar: dict[float, float]
    nearest_far: dict[float, float]
    genuine: int
    impostor: int


def roc_at(scores: Floats, same: Bools, fars: Sequence[float] = IJB_FARS) -> Roc:
    """The ROC at `fars` of [P] scores, higher for likelier, and [P] whether each pair is genuine.

    Raises `UserError` for scores that are not finite, FARs outside (0, 1], and unless there are pairs of both kinds.
    """
    if not np.isfinite(scores).all():
        raise UserError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} pair scores are not finite.")
    genuine, impostors = np.sort(scores[same]), scores[~same]
    refuse_none(len(genuine), len(impostors))
    ranks = {far: rank_at(far, len(impostors)) for far in fars}
    tail = _highest(impostors, max(ranks.values(), default=0) * 9 // 8 + MARGIN)
    threshold = {far: float(tail[-rank]) if rank else nan for far, rank in ranks.items()}
    tar = {far: _share_above(genuine, value) for far, value in threshold.items()}
    fpr, tpr = _corners(genuine, impostors, tail, fars)
    near = {far: len(fpr) - 1 - int(np.argmin(np.abs(fpr - far)[::-1])) for far in fars}
    nearest_tar, nearest_far = ({far: float(rate[i]) for far, i in near.items()} for rate in (tpr, fpr))
    return Roc(tar, threshold, nearest_tar, nearest_far, len(genuine), len(impostors))


def rank_at(far: float, pairs: int) -> int:
    """floor(far x pairs), with `far` read as the decimal that was written: 0.29 x 100 is 29.

    Raises `UserError` for a `far` outside (0, 1].
    """
    if not 0 < far <= 1:
        raise UserError(f"A FAR lies in (0, 1], not at {far}.")
    return int(Fraction(str(far)) * pairs)


def _share_above(genuine: Floats, threshold: float) -> float:
    if threshold != threshold:
        return nan
    at_or_below = np.searchsorted(genuine, np.asarray(threshold, genuine.dtype), side="right")
    return float((len(genuine) - at_or_below) / len(genuine))


def _highest(impostors: Floats, count: int) -> Floats:
    """At least `count` of the highest scores, ascending: all that equal the lowest of them, too."""
    if count >= len(impostors):
        return np.sort(impostors)
    lowest = np.partition(impostors, len(impostors) - count)[len(impostors) - count]
    return np.sort(impostors[impostors >= lowest])


def _corners(genuine: Floats, impostors: Floats, tail: Floats, fars: Sequence[float]) -> tuple[Doubles, Doubles]:
    """FPR and TPR at the corners of the curve, as far as to be certain which are nearest to `fars`."""
    while len(tail) < len(impostors):
        fpr, tpr = _curve(genuine[np.searchsorted(genuine, tail[0]) :], tail)
        corners = fpr[:-1] / len(impostors)  # whether the last point is one is not known here
        reached = np.searchsorted(corners, fars)
        if all(i < len(corners) and corners[i] < corners[-1] for i in reached):
            return corners, tpr[:-1] / len(genuine)
        tail = _highest(impostors, 4 * len(tail))
    fpr, tpr = _curve(genuine, tail)
    return fpr / len(impostors), tpr / len(genuine)


def _curve(genuine: Floats, impostors: Floats) -> tuple[Ints, Ints]:
    """Impostor and genuine scores accepted at the corners of the curve of these ascending scores, (0, 0) first."""
    values = np.unique(np.concatenate([genuine, impostors]))[::-1]
    found, accepted = (len(kind) - np.searchsorted(kind, values) for kind in (genuine, impostors))
    bent = (np.diff(found, 2) != 0) | (np.diff(accepted, 2) != 0)
    corner = np.concatenate([[True], bent, [True]])[: len(values)]
    return np.append(0, accepted[corner]), np.append(0, found[corner])
