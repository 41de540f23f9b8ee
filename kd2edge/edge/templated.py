"""The numbers of templates, IJB-B's and IJB-C's: TAR by two rules at each FAR, and open-set search where asked for."""

import math
from typing import Any

import numpy as np

from kd2edge.data import Templates
from kd2edge.edge.clustered import at, within
from kd2edge.edge.operating import power
from kd2edge.edge.session import Floats
from kd2edge.metrics import TemplateResult, judge_templates
from kd2edge.report.model import Number

Numbers = dict[str, Number]


def score(embeddings: Floats, protocol: Templates, confidence: float = 0.95) -> tuple[Numbers, dict[str, Any]]:
    """Numbers and conditions of float32 [N, D] embeddings, one an image.

    `tar@1e-4` is by the exact rule, with an interval over subjects or templates, `nearest_tar@1e-4` at the point of
    scikit-learn's curve nearest to that FAR, as published figures have it. Raises `UserError` as `judge_templates`.
    """
    found = judge_templates(embeddings, protocol)
    numbers = {f"tar@{power(far)}": _exact(found, far, confidence) for far in found.roc.tar}
    for far, tar in found.roc.nearest_tar.items():
        note = f"at a FAR of {found.roc.nearest_far[far]:.3g}"
        numbers[f"nearest_tar@{power(far)}"] = _percent(tar, found.roc.genuine, note)
    thresholds = {power(far): None if math.isnan(value) else value for far, value in found.roc.threshold.items()}
    pairs = {"genuine": found.roc.genuine, "impostor": found.roc.impostor}
    told = {"templates": len(np.unique(protocol.template)), "pairs": pairs, "template_thresholds": thresholds}
    return numbers | _searched(found), told


def _exact(found: TemplateResult, far: float, confidence: float) -> Number:
    tar = found.roc.tar[far]
    if math.isnan(tar):
        note = f"a FAR of {power(far)} needs more than the {found.roc.impostor:,} impostor pairs there are"
        return Number(value=None, unit="%", n=found.roc.genuine, better="higher", note=note)
    interval, how = at(far, found.tars, found.tars.clusters, found.resampled).interval(confidence)
    return within(_percent(tar, found.roc.genuine, how), interval, how)


def _searched(found: TemplateResult) -> Numbers:
    """1:N, the mean of the galleries; nothing where there are none."""
    search = found.identification
    if search is None:
        return {}
    note = f"mean of {len(found.galleries)} galleries"
    numbers = {f"rank{rank}": _percent(share, None, note) for rank, share in search.rank.items()}
    for fpir, share in search.tpir.items():
        short = f"an FPIR of {power(fpir)} needs more unmated probes than there are"
        numbers[f"tpir@{power(fpir)}"] = _percent(share, None, short if math.isnan(share) else note)
    return numbers


def _percent(share: float, n: int | None, note: str) -> Number:
    value = None if math.isnan(share) else 100 * share
    return Number(value=value, unit="%", n=n, better="higher", note=note)
