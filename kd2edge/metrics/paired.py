"""What one model loses against another on the same images, with an interval that knows they are the same.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13): classifiers resample images;
embeddings resample identities, since the pairs of one identity are not independent (Bolle et al., "Error analysis of
pattern recognition systems: the subsets bootstrap", CVIU 93, 2004). Seeds are fixed: the same outputs, the same answer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics.classification import predictions
from kd2edge.metrics.identities import IdentityTar, pair_counts
from kd2edge.metrics.roc import rank_at

RESAMPLES = 1000


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
    sizes = np.unique(labels, return_counts=True)[1]
    genuine, impostor = pair_counts(sizes)
    if not (rank_at(far, impostor) and genuine):
        raise UserError(
            f"A FAR of {far:g} cannot be told from {impostor} impostor and {genuine} genuine pairs.",
            "take more images",
        )
    after, before = (IdentityTar(given, labels, (far,)) for given in (embeddings, reference))
    value, was = (float(tar(far, np.ones((1, len(sizes)), np.int64))[0]) for tar in (after, before))
    weights = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    drawn = before(far, weights) - after(far, weights)
    return _drop(value, was - value, drawn[~np.isnan(drawn)])


def _drop(value: float, drop: float, drawn: npt.NDArray[np.float64]) -> Drop:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Drop(100 * value, 100 * drop, 100 * float(low), 100 * float(high))
