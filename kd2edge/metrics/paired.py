"""What one model loses against another on the same images, with an interval that knows they are the same.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13): classifiers resample images;
embeddings resample identities, since the pairs of one identity are not independent (Bolle et al., "Error analysis of
pattern recognition systems: the subsets bootstrap", CVIU 93, 2004). Seeds are fixed: the same outputs, the same answer.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints, unit
from kd2edge.metrics.classification import predictions

RESAMPLES = 1000
TAIL = 8  # times as many impostor pairs as the FAR accepts are kept for the resamples, the highest of them


@dataclass(frozen=True)
class Drop:
    """By how much a metric is lower than the reference's, both in %, with a 95 % interval; `value` is the metric."""

    value: float
    drop: float
    low: float
    high: float


def top1_drop(logits: npt.NDArray[np.floating], reference: npt.NDArray[np.floating], labels: Ints) -> Drop:
    """Top-1 of float [N, C] logits and how far below that of the reference's it is, over the same N images.

    Raises `UserError` for NaN.
    """
    right, before = (predictions(given) == labels for given in (logits, reference))
    lost = before.astype(np.int64) - right
    shares = np.bincount(lost + 1, minlength=3) / len(lost)  # won, equal, lost: all that a resample can draw
    drawn = np.random.default_rng(0).multinomial(len(lost), shares, RESAMPLES)
    return _drop(float(right.mean()), float(lost.mean()), (drawn[:, 2] - drawn[:, 0]) / len(lost))


def tar_drop(embeddings: Floats, reference: Floats, labels: Ints, far: float = 1e-3) -> Drop:
    """TAR at `far` of float32 [N, D] embeddings and how far below the reference's it is, over all pairs of N images.

    Raises `UserError` for embeddings that are NaN, infinite or zero, and where the impostor pairs are too few.
    """
    counts = np.unique(labels, return_counts=True)[1]
    weights = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    after, before = (_Ranked(given, labels, far) for given in (embeddings, reference))
    ones = np.ones(len(counts), np.int64)
    drops = [before.tar(resample) - after.tar(resample) for resample in weights]
    return _drop(after.tar(ones), before.tar(ones) - after.tar(ones), np.array(drops))


def _drop(value: float, drop: float, drawn: npt.NDArray[np.float64]) -> Drop:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Drop(100 * value, 100 * drop, 100 * float(low), 100 * float(high))


class _Ranked:
    """The genuine scores and the highest impostor scores of a model, to be weighted by resampled identities.

    A pair of identities drawn a and b times counts a b times; a genuine pair of one drawn a times counts a times.
    """

    def __init__(self, embeddings: Floats, labels: Ints, far: float) -> None:
        identity = np.unique(labels, return_inverse=True)[1]
        normed = unit(embeddings, labels)
        one, other = np.triu_indices(len(labels), k=1)
        scores = (normed @ normed.T)[one, other]
        same = identity[one] == identity[other]
        self._far, self._sizes = Fraction(str(far)), np.bincount(identity)
        if Fraction(str(far)) * int((~same).sum()) < 1 or not same.any():
            raise UserError(
                f"A FAR of {far:g} cannot be told from {(~same).sum()} impostor and {same.sum()} genuine pairs.",
                "take more images",
            )
        self._genuine, self._owner = scores[same], identity[one[same]]
        impostors = np.flatnonzero(~same)
        kept = min(len(impostors), int(TAIL * far * len(impostors)) + 1)
        highest = impostors[np.argpartition(-scores[impostors], kept - 1)[:kept]]
        highest = highest[np.argsort(-scores[highest])]
        self._impostor, self._pair = scores[highest], (identity[one[highest]], identity[other[highest]])

    def tar(self, weights: Ints) -> float:
        """TAR strictly above the threshold at which the share of impostors reaches the FAR; 0..1."""
        sizes = weights * self._sizes
        impostors = (sizes.sum() ** 2 - (sizes**2).sum()) // 2
        reached = np.cumsum(weights[self._pair[0]] * weights[self._pair[1]])
        rank = max(1, int(self._far * int(impostors)))
        threshold = self._impostor[min(int(np.searchsorted(reached, rank)), len(reached) - 1)]
        genuine = weights[self._owner]
        return float(genuine[self._genuine > threshold].sum() / max(1, genuine.sum()))
