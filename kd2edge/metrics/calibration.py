"""How far a classifier's confidence can be believed: calibration errors, Brier score and likelihood of its logits.

The expected calibration error is the mean distance between confidence and accuracy over bins of confidence, of equal
width (Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al., 1706.04599, section 2) or of equal mass (Nixon et al.,
1904.01685, section 3). Noise within a bin only ever adds to it, so that of few images it is too high. Brier score
(Monthly Weather Review 78(1), 1950) and negative log-likelihood are means over images and have no such bias.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Ints
from kd2edge.metrics.classification import Logits, predictions

BINS = 15
ROWS = 4096  # images at a time: 33 MB of float64 for 1,000 classes

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Forecasts:
    """What a classifier said of each of N images.

    `confidence` float64 [N] is the probability of its first choice, `right` bool [N] whether that is the label.
    `brier` float64 [N] is the squared distance, 0..2, of the probabilities from the truth, `nll` float64 [N] minus the
    logarithm of the true class's, in nats.
    """

    confidence: Doubles
    right: Bools
    brier: Doubles
    nll: Doubles


@dataclass(frozen=True)
class Reliability:
    """Mean `confidence` and `accuracy`, 0..1, float64 [B], of the int64 [B] `n` images of each bin that has any."""

    confidence: Doubles
    accuracy: Doubles
    n: Ints

    @property
    def error(self) -> float:
        """The expected calibration error, 0..1."""
        return float(self.n @ np.abs(self.accuracy - self.confidence) / self.n.sum())


def softmax(logits: Logits) -> Doubles:
    """Probabilities float64 [N, C] of [N, C] logits, of any size that a float holds."""
    lifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True))


def forecasts(logits: Logits, labels: Ints) -> Forecasts:
    """The forecasts that [N, C] logits make of N images whose classes are int64 [N] labels.

    Raises `UserError` for logits that are not finite, no images, and labels that are not one an image in 0..C-1.
    """
    faulty = np.count_nonzero(~np.isfinite(logits).all(axis=1))
    if faulty:
        raise UserError(f"{faulty} of {len(logits)} rows of logits are not finite.", "look at its precision")
    if len(labels) != len(logits) or not len(labels) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(f"{len(labels)} labels do not fit {logits.shape[0]} images of {logits.shape[1]} classes.")
    blocks = [slice(start, start + ROWS) for start in range(0, len(labels), ROWS)]
    parts = [_block(logits[block], labels[block]) for block in blocks]
    confidence, brier, nll = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Forecasts(confidence, predictions(logits) == labels, brier, nll)


def _block(logits: Logits, labels: Ints) -> tuple[Doubles, Doubles, Doubles]:
    shares, images = softmax(logits), np.arange(len(labels))
    own = shares[images, labels]
    brier = np.einsum("nc,nc->n", shares, shares) - own**2 + (1 - own) ** 2
    lifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shares.max(axis=1), brier, np.log(np.exp(lifted).sum(axis=1)) - lifted[images, labels]


def equal_width(confidence: Doubles, bins: int = BINS) -> Ints:
    """The bin 0..`bins` - 1 of each confidence float64 [N]: bin b holds b / bins < confidence <= (b + 1) / bins."""
    return np.asarray(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left"), np.int64)


def equal_mass(confidence: Doubles, bins: int = BINS) -> Ints:
    """The bin 0..`bins` - 1 of each confidence float64 [N], with N / `bins` images each; equal ones share a bin."""
    rank = np.searchsorted(np.sort(confidence), confidence, side="left")
    return np.asarray(rank * bins // len(confidence), np.int64)


def reliability(made: Forecasts, bins: Ints) -> Reliability:
    """Confidence and accuracy by bin, from the lowest up, of N forecasts whose int64 [N] `bins` are given."""
    n = np.bincount(bins)
    held = n > 0
    sums = (np.bincount(bins, weights=values)[held] for values in (made.confidence, made.right))
    confidence, accuracy = (total / n[held] for total in sums)
    return Reliability(confidence, accuracy, n[held])
