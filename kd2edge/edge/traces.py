"""Series behind the numbers of accuracy, to be drawn and never judged: ROC, confusions, classes, reliability."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd2edge.data import Ints, PairList, Split, Templates
from kd2edge.edge.session import Floats
from kd2edge.metrics import cosines, distances, predictions, verify, verify_pairs
from kd2edge.metrics.calibration import equal_width, forecasts, reliability
from kd2edge.report.model import Number

CURVE = tuple(float(f"{10 ** (place / 8):.3g}") for place in range(-48, 1))  # FARs 1e-6..1, eight a decade
MATRIX = 20  # classes, beyond which the most frequent confusions are listed
LISTED = 20  # confusions
CLASSES = 200

Traces = dict[str, Any]


def of_logits(logits: Floats, split: Split) -> Traces:
    """`confusion` or `confused`, `per_class` and `reliability` of float32 [N, C] logits of the split's classes."""
    made = forecasts(logits, split.labels)
    bins = reliability(made, equal_width(made.confidence))
    series = {"confidence": bins.confidence.tolist(), "accuracy": bins.accuracy.tolist(), "n": bins.n.tolist()}
    chosen = predictions(logits)
    return {**_confusions(chosen, split), "per_class": _per_class(chosen, split), "reliability": series}


def of_embeddings(embeddings: Floats, split: Split, numbers: Mapping[str, Number]) -> Traces:
    """`roc` of float32 [N, D] embeddings: over all pairs where it is known who is who, else over listed pairs.

    Of templates it has the FARs that `numbers` has a `tar@` of. FARs that the impostors are too few for are left out.
    Raises `UserError` as `verify` and `verify_pairs` do.
    """
    protocol = split.protocol
    if isinstance(protocol, Templates):
        found = {float(name[4:]): number.value for name, number in numbers.items() if name.startswith("tar@")}
        return _roc({far: np.nan if tar is None else tar / 100 for far, tar in found.items()})
    if isinstance(protocol, PairList) and not split.classes:
        return _roc(verify_pairs(cosines(distances(embeddings, protocol.pairs)), protocol.same, CURVE).tar)
    return _roc(verify(embeddings, split.labels, CURVE).tar)


def _roc(tar: Mapping[float, float]) -> Traces:
    points = sorted((far, value) for far, value in tar.items() if not np.isnan(value))
    return {"roc": {"far": [far for far, _ in points], "tar": [value for _, value in points]}}


def _confusions(chosen: Ints, split: Split) -> Traces:
    """How often each class was taken for which: the whole matrix, true x predicted, or the most frequent mistakes."""
    classes = len(split.classes)
    if classes <= MATRIX:
        counts = np.bincount(split.labels * classes + chosen, minlength=classes**2).reshape(classes, classes)
        return {"confusion": {"classes": split.classes, "counts": counts.tolist()}}
    wrong = chosen != split.labels
    mistakes, counts = np.unique(split.labels[wrong] * classes + chosen[wrong], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:LISTED]
    names = split.classes
    listed = zip(mistakes[most].tolist(), counts[most].tolist(), strict=True)
    return {"confused": [[names[both // classes], names[both % classes], count] for both, count in listed]}


def _per_class(chosen: Ints, split: Split) -> dict[str, list[Any]]:
    """Recall in % of each class that has images, the worst first, of equal ones the one of more images."""
    classes = len(split.classes)
    n = np.bincount(split.labels, minlength=classes)
    right = np.bincount(split.labels[chosen == split.labels], minlength=classes)
    recall = 100 * right / np.maximum(n, 1)
    present = np.flatnonzero(n)
    worst = present[np.lexsort((-n[present], recall[present]))][:CLASSES]
    return {"classes": [split.classes[c] for c in worst], "n": n[worst].tolist(), "recall": recall[worst].tolist()}
