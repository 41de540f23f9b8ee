"""What the outputs of the exported file are worth: the metrics of its task, and its agreement with the FP32 file.

Both are computed from arrays that a back end returned; the model that was trained is not asked.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kd2edge import stats
from kd2edge.data import Split, Templates
from kd2edge.edge import listed, templated
from kd2edge.edge.clustered import subjects_of, tar, within
from kd2edge.edge.operating import OPERATING_FAR, power
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.metrics import FARS, one_shot, predictions, topk, verify
from kd2edge.report.model import Number


def score(
    outputs: Floats, split: Split, output: str, confidence: float = 0.95, fars: Sequence[float] = ()
) -> tuple[dict[str, Number], dict[str, Any]]:
    """Numbers and conditions of float32 [N, D] outputs, which are "logits" or an "embedding", over a whole split.

    Intervals are of that confidence. Over all pairs they take a second or more for each FAR, so that only the TARs at
    `fars` have them.

    An embedding is judged by all pairs where it is known who is who, by a list of pairs where the split has one, and by
    templates alone where it has those.
    `top1_over_chance` and `tar_over_far` (at a FAR of 1e-3) say how many times better than guessing a model is: about
    1 for one that is fed or read wrongly. For embeddings the conditions hold the numbers of pairs and the cosine
    `thresholds` by FAR ("1e-3").

    Raises `UserError` if the outputs are not finite, or if logits are of other classes than the data's.
    """
    if not np.isfinite(outputs).all():
        raise UserError("Its outputs hold NaN or infinite values.", "look at its precision and its inputs")
    if output == "logits":
        return _classification(outputs, split, confidence)
    return _embedding(outputs, split, confidence, fars)


def agreement(outputs: Floats, reference: Floats, output: str, confidence: float = 0.95) -> dict[str, Number]:
    """How near outputs come to those of the FP32 file on the same images; both float32 [N, D].

    Mean cosine of embeddings, or the share of equal predictions in % of logits. Raises `UserError` where D differs.
    """
    if outputs.shape != reference.shape:
        raise UserError(f"Its outputs are {outputs.shape}, those of fp32 {reference.shape}: they do not compare.")
    if output == "logits":
        equal = predictions(outputs) == predictions(reference)
        return {"agreement_with_fp32": _share(float(equal.mean()), len(equal), confidence)}
    norms = np.linalg.norm(outputs, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = np.einsum("nd,nd->n", outputs, reference) / norms
    number = Number(value=float(cosines.mean()), unit="", n=len(cosines), better="higher")
    return {"cosine_to_fp32": number}


def _classification(logits: Floats, split: Split, confidence: float) -> tuple[dict[str, Number], dict[str, Any]]:
    classes = len(split.classes)
    if logits.shape[1] != classes:
        raise UserError(f"It has {logits.shape[1]} outputs where the data has {classes} classes.")
    ks = (1, 5) if classes >= 10 else (1,)
    shares = topk(logits, split.labels, ks)
    numbers = {f"top{k}": _share(shares[k], len(logits), confidence) for k in ks}
    return numbers | {"top1_over_chance": _times(numbers["top1"], 100 / classes)}, {"classes": classes}


def _embedding(
    embeddings: Floats, split: Split, confidence: float, fars: Sequence[float]
) -> tuple[dict[str, Number], dict[str, Any]]:
    protocol = split.protocol
    if isinstance(protocol, Templates):
        numbers, conditions = templated.score(embeddings, protocol, confidence)
        return numbers, conditions | ({"flip": True} if protocol.flip else {})
    if protocol is None:
        return _all_pairs(embeddings, split, confidence, fars)
    numbers, conditions = _all_pairs(embeddings, split, confidence, fars) if split.classes else ({}, {})
    more, told = listed.score(embeddings, protocol, subjects_of(split), confidence)
    return numbers | more, conditions | told | ({"flip": True} if protocol.flip else {})


def _all_pairs(
    embeddings: Floats, split: Split, confidence: float, fars: Sequence[float]
) -> tuple[dict[str, Number], dict[str, Any]]:
    found = verify(embeddings, split.labels, tuple(sorted({*FARS, *fars}, reverse=True)))
    numbers = {f"tar@{power(far)}": _tar(value, far, found.genuine, found.impostor) for far, value in found.tar.items()}
    for far, spread in tar(embeddings, split.labels, tuple(fars)).items():
        interval, how = spread.interval(confidence)
        numbers[f"tar@{power(far)}"] = within(numbers[f"tar@{power(far)}"], interval, how)
    numbers["eer"] = Number(value=100 * found.eer, unit="%", n=found.genuine + found.impostor, better="lower")
    numbers["tar_over_far"] = _times(numbers[f"tar@{power(OPERATING_FAR)}"], 100 * OPERATING_FAR)
    if {"alphabet", "writer"} <= set(split.groups):
        shot = one_shot(embeddings, split.labels, split.groups["alphabet"], split.groups["writer"])
        numbers["oneshot_20way"] = Number(value=100 * shot.accuracy, unit="%", n=shot.trials, better="higher")
    thresholds = {power(far): None if math.isnan(value) else value for far, value in found.threshold.items()}
    return numbers, {"genuine_pairs": found.genuine, "impostor_pairs": found.impostor, "thresholds": thresholds}


def _tar(value: float, far: float, genuine: int, impostor: int) -> Number:
    """A TAR in percent of the genuine pairs."""
    if math.isnan(value):
        note = f"a FAR of {power(far)} needs more than the {impostor} impostor pairs there are"
        return Number(value=None, unit="%", n=genuine, better="higher", note=note)
    return Number(value=100 * value, unit="%", n=genuine, better="higher", note="no interval: no rule asks for it")


def _times(number: Number, chance: float) -> Number:
    """A share as a multiple of what guessing gives, both in %; its interval, or why there is none, goes with it."""
    value, low, high = (None if share is None else share / chance for share in (number.value, number.low, number.high))
    return number.model_copy(update={"value": value, "low": low, "high": high, "unit": "x"})


def _share(share: float, n: int, confidence: float) -> Number:
    """A share of n independent images in percent, with Wilson's interval."""
    low, high = stats.share_interval(share, n, confidence)
    return Number(value=100 * share, unit="%", n=n, low=100 * low, high=100 * high, better="higher")
