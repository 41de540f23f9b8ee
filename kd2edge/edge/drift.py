"""What a compressed file makes of the threshold that FP32 is deployed with: its FAR and FRR there, next to its own."""

from typing import Any

import numpy as np

from kd2edge.data import Ints, PairList, Split
from kd2edge.edge import subgroups
from kd2edge.edge.operating import Operating, Point
from kd2edge.edge.session import Floats
from kd2edge.metrics import accepted_at, cosines, distances, rates_at
from kd2edge.report.model import Number


def drift(embeddings: Floats, split: Split, frozen: Operating) -> tuple[dict[str, Number], dict[str, Any]]:
    """Numbers and conditions of float32 [N, D] embeddings at FP32's own thresholds.

    `far_at_fp32_threshold` and `frr_at_fp32_threshold` are over all pairs, with `pair_` before them over listed pairs,
    all in %. Nothing is said where embeddings are summed with their mirrors' in one of the two and not in the other.
    """
    protocol = split.protocol
    numbers: dict[str, Number] = {}
    conditions: dict[str, Any] = {}
    if frozen.flip != (protocol is not None and protocol.flip):
        return numbers, conditions
    if frozen.all_pairs and (protocol is None or (isinstance(protocol, PairList) and split.classes)):
        rates = rates_at(frozen.all_pairs.threshold, embeddings, split.labels)
        impostor, genuine = _counts(split.labels)
        numbers |= _numbers("", frozen.all_pairs, rates.far, rates.tar, impostor, genuine)
        conditions["fp32_threshold"] = frozen.all_pairs.threshold
    if frozen.listed and isinstance(protocol, PairList):
        alike = cosines(distances(embeddings, protocol.pairs))
        found = accepted_at(frozen.listed.threshold, alike, protocol.same)
        numbers |= _numbers("pair_", frozen.listed, found.far, found.tar, found.impostor, found.genuine)
        conditions["fp32_pair_threshold"] = frozen.listed.threshold
        if protocol.subgroups:
            conditions["subgroups_at_fp32_threshold"] = subgroups.shares(alike, protocol, frozen.listed.threshold)
    return numbers, conditions


def _counts(labels: Ints) -> tuple[int, int]:
    """How many of all pairs are impostors, and how many genuine."""
    sizes = np.unique(labels, return_counts=True)[1]
    genuine = int((sizes * (sizes - 1) // 2).sum())
    return len(labels) * (len(labels) - 1) // 2 - genuine, genuine


def _numbers(prefix: str, point: Point, far: float, tar: float, impostor: int, genuine: int) -> dict[str, Number]:
    note = f"at the cosine {point.threshold:.4f}, FP32's at a FAR of {point.far}"
    return {
        f"{prefix}far_at_fp32_threshold": Number(value=100 * far, unit="%", n=impostor, better="lower", note=note),
        f"{prefix}frr_at_fp32_threshold": Number(value=100 * (1 - tar), unit="%", n=genuine, better="lower", note=note),
    }
