"""The numbers of listed pairs: accuracy by folds, TAR at a FAR, insightface's VAL, and each subgroup's shares."""

import math
from fractions import Fraction
from typing import Any

from kd2edge import stats
from kd2edge.data import Ints, PairList
from kd2edge.edge import subgroups
from kd2edge.edge.clustered import listed, within
from kd2edge.edge.operating import OPERATING_FAR, operating, power
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.metrics import FARS, Folds, cosines, distances, verify_pairs
from kd2edge.metrics.listed import Doubles
from kd2edge.report.model import Number

NOBODY = "no interval: the list does not say who is who (data.names)"

Numbers = dict[str, Number]


def score(
    embeddings: Floats, pairs: PairList, subjects: Ints | None, confidence: float = 0.95
) -> tuple[Numbers, dict[str, Any]]:
    """Numbers and conditions of float32 [N, D] embeddings on a list of pairs.

    `subjects` int64 [P, 2] are those of each pair, or None where they are not known: then there are no intervals, since
    resampled pairs would make them too narrow. Conditions hold the cosine `pair_thresholds` by FAR ("1e-3").

    Raises `UserError` for faulty embeddings, and unless there are pairs of both kinds.
    """
    squared = distances(embeddings, pairs.pairs)
    alike = cosines(squared)
    tars, thresholds = _tars(squared, pairs, subjects, confidence)
    accuracies, told = _accuracies(squared, pairs, subjects, confidence)
    conditions: dict[str, Any] = {"pairs": told, "pair_thresholds": thresholds}
    point = operating(conditions).listed
    if not pairs.subgroups or point is None:
        return accuracies | tars, conditions
    conditions["subgroups"] = subgroups.shares(alike, pairs, point.threshold)
    return accuracies | tars | subgroups.worst(conditions["subgroups"]), conditions


def _tars(
    squared: Doubles, pairs: PairList, subjects: Ints | None, confidence: float
) -> tuple[Numbers, dict[str, float | None]]:
    """TAR and threshold at the FARs that the impostors are enough for, and at the operating one in any case."""
    impostors = int((~pairs.same).sum())
    fars = [far for far in FARS if far == OPERATING_FAR or int(Fraction(str(far)) * impostors)]
    found = verify_pairs(cosines(squared), pairs.same, fars)
    numbers = {}
    for far, tar in found.tar.items():
        name = f"pair_tar@{power(far)}"
        few = f"a FAR of {power(far)} needs more than the {found.impostor} listed impostor pairs"
        numbers[name] = Number(value=None, unit="%", n=found.genuine, better="higher", note=few)
        if not math.isnan(tar):
            interval, how = _spread(name, squared, pairs, subjects, confidence)
            numbers[name] = within(_percent(tar, found.genuine, how), interval, how)
    return numbers, {power(far): None if math.isnan(value) else value for far, value in found.threshold.items()}


def _accuracies(
    squared: Doubles, pairs: PairList, subjects: Ints | None, confidence: float
) -> tuple[Numbers, dict[str, Any]]:
    """The mean accuracy of the folds, insightface's VAL in its mode, and their standard deviations in points."""
    genuine = int(pairs.same.sum())
    told: dict[str, Any] = {"mode": pairs.mode, "folds": pairs.folds, "genuine": genuine}
    told["impostor"] = len(pairs.same) - genuine
    try:
        folds = Folds(squared, pairs.same, pairs.folds, pairs.mode)
    except UserError as refused:
        none = Number(value=None, unit="%", n=len(pairs.same), better="higher", note=refused.message)
        return {"pair_accuracy": none}, told
    shares = folds.accuracies()
    told["accuracy_std"] = 100 * float(shares.std())
    interval, how = _spread("pair_accuracy", squared, pairs, subjects, confidence)
    note = f"mean of {pairs.folds} folds, standard deviation {told['accuracy_std']:.2f} points; {how}"
    numbers = {"pair_accuracy": within(_percent(float(shares.mean()), len(pairs.same), note), interval, note)}
    if pairs.mode == "insightface":
        val = folds.val(OPERATING_FAR)
        told |= {"val_std": 100 * float(val.val.std()), "val_far": 100 * float(val.far.mean())}
        note = f"mean of {pairs.folds} folds, realised at a FAR of {told['val_far']:.3f} %"
        numbers[f"pair_val@{power(OPERATING_FAR)}"] = _percent(float(val.val.mean()), genuine, note)
    return numbers, told


def _spread(
    metric: str, squared: Doubles, pairs: PairList, subjects: Ints | None, confidence: float
) -> tuple[stats.Interval | None, str]:
    """The interval of a metric, by the subjects, and how it was found."""
    spread = listed(metric, squared, pairs, subjects)
    return (None, NOBODY) if spread is None else spread.interval(confidence)


def _percent(share: float, n: int, note: str) -> Number:
    return Number(value=100 * share, unit="%", n=n, better="higher", note=note)
