"""What a compressed file makes of the threshold that FP32 is deployed with: its FAR and FRR there, next to its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd2edge.data import PairList, Split
from kd2edge.edge import subgroups
from kd2edge.edge.clustered import Clustered, listed, rates, subjects_of, within
from kd2edge.edge.operating import Operating, Point
from kd2edge.edge.session import Floats
from kd2edge.metrics import IdentityRates, accepted_at, cosines, distances, pair_counts
from kd2edge.report.model import Number


def drift(
    embeddings: Floats, split: Split, frozen: Operating, confidence: float = 0.95
) -> tuple[dict[str, Number], dict[str, Any]]:
    """Numbers and conditions of float32 [N, D] embeddings at FP32's own thresholds.

    `far_at_fp32_threshold` and `frr_at_fp32_threshold` are over all pairs, with `pair_` before them over listed pairs,
    all in %, with intervals for the threshold as it is. Nothing is said where embeddings
    are summed with their mirrors' in one of the two and not in the other.
    """
    protocol = split.protocol
    numbers: dict[str, Number] = {}
    conditions: dict[str, Any] = {}
    if frozen.flip != (protocol is not None and protocol.flip):
        return numbers, conditions
    if frozen.all_pairs and (protocol is None or (isinstance(protocol, PairList) and split.classes)):
        found = IdentityRates(frozen.all_pairs.threshold, embeddings, split.labels)
        everyone, (genuine, impostor) = np.ones((1, found.identities), np.int64), pair_counts(found.sizes)
        shares = {"far": (float(found.far(everyone)[0]), impostor), "frr": (float(found.frr(everyone)[0]), genuine)}
        numbers |= _numbers("", frozen.all_pairs, shares, rates(found), confidence)
        conditions["fp32_threshold"] = frozen.all_pairs.threshold
    if frozen.listed and isinstance(protocol, PairList):
        squared = distances(embeddings, protocol.pairs)
        alike, threshold = cosines(squared), frozen.listed.threshold
        seen = accepted_at(threshold, alike, protocol.same)
        shares = {"far": (seen.far, seen.impostor), "frr": (1 - seen.tar, seen.genuine)}
        names = {name: f"pair_{name}_at_fp32_threshold" for name in shares}
        spread = {name: listed(full, squared, protocol, subjects_of(split), threshold) for name, full in names.items()}
        numbers |= _numbers("pair_", frozen.listed, shares, spread, confidence)
        conditions["fp32_pair_threshold"] = frozen.listed.threshold
        if protocol.subgroups:
            conditions["subgroups_at_fp32_threshold"] = subgroups.shares(alike, protocol, frozen.listed.threshold)
    return numbers, conditions


def _numbers(
    prefix: str,
    point: Point,
    shares: Mapping[str, tuple[float, int]],
    spread: Mapping[str, Clustered | None],
    confidence: float,
) -> dict[str, Number]:
    """`far` and `frr`, each a share 0..1 of so many pairs, in %."""
    note = f"at the cosine {point.threshold:.4f}, FP32's at a FAR of {point.far}"
    numbers = {}
    for name, (share, n) in shares.items():
        number = Number(value=100 * share, unit="%", n=n, better="lower", note=note)
        of = spread[name]
        if of is not None:
            interval, how = of.interval(confidence)
            number = within(number, interval, f"{note}; {how}")
        numbers[f"{prefix}{name}_at_fp32_threshold"] = number
    return numbers
