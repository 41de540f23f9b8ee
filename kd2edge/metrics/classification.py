"""Top-k accuracy, with one rule for ties, so that two back ends of equal logits get equal marks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Ints

Logits = npt.NDArray[np.floating]


def predictions(logits: Logits) -> Ints:
    """The class of the highest of [N, C] logits, int64 [N]; of several equal ones the lowest index.

    Raises `UserError` if a logit is NaN.
    """
    _refuse_nan(logits)
    return np.asarray(np.argmax(logits, axis=1), np.int64)


def topk(logits: Logits, labels: Ints, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Share of rows of [N, C] logits whose int64 [N] label is among the k highest, for each k; 0..1.

    Equal logits rank by index, the lower first, as in `predictions`: a model whose logits are all equal earns 1 / C
    on balanced labels, and not 1. Raises `UserError` for NaN, labels outside 0..C-1, k outside 1..C, or no rows.
    """
    return {k: float(np.mean(hits)) for k, hits in among(logits, labels, ks).items()}


def among(logits: Logits, labels: Ints, ks: Sequence[int] = (1, 5)) -> dict[int, npt.NDArray[np.bool_]]:
    """Whether each row's label is among the k highest, bool [N], for each k; the shares of `topk`, row by row."""
    _refuse_nan(logits)
    classes = logits.shape[1]
    if len(labels) != len(logits) or not len(labels):
        raise UserError(f"Accuracy needs one label per row, and rows: {len(logits)} rows, {len(labels)} labels.")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"Labels {labels.min()}..{labels.max()} do not fit a model of {classes} classes.")
    if not all(1 <= k <= classes for k in ks):
        raise UserError(f"Top-k of {classes} classes needs k in 1..{classes}, not {', '.join(map(str, ks))}.")
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = (logits > own) | ((logits == own) & (np.arange(classes) < labels[:, None]))
    rank = ahead.sum(axis=1)
    return {k: rank < k for k in ks}


def _refuse_nan(logits: Logits) -> None:
    rows = np.flatnonzero(np.isnan(logits).any(axis=1))
    if len(rows):
        raise UserError(
            f"{len(rows)} of {len(logits)} rows of logits have NaN, the first is row {rows[0]}.",
            "a model that returns NaN cannot be judged: look at its precision and its inputs",
        )
