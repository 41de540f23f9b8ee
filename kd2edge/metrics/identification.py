"""1:N: a probe is compared with a whole gallery, open-set (ISO/IEC 19795-1; Grother et al., NIST IR 8271).

A probe whose subject is enrolled in the gallery is mated. Rank-k is the share of mated probes with fewer than k others
enrolled at or above their mate. FPIR is the share of the other probes that find anyone strictly above a threshold, TPIR
the share of mated ones whose mate is strictly above it, at any rank, as in the public IJB scripts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics.roc import rank_at

PROBES = 512  # compared at a time
RANKS = (1, 5, 10)
FPIRS = (1e-2, 1e-1)


@dataclass(frozen=True)
class Identification:
    """Shares of mated probes by rank and by FPIR, and thresholds; NaN where the FPIR asks for less than one probe."""

    rank: dict[int, float]
    tpir: dict[float, float]
    threshold: dict[float, float]
    mated: int
    unmated: int


def identify(
    gallery: Floats,
    enrolled: Ints,
    probes: Floats,
    subjects: Ints,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIRS,
) -> Identification:
    """Cosines of float32 [Q, D] probes to a float32 [G, D] gallery, vectors of length one; int64 subjects of both.

    At FPIR f the threshold is the k-th highest of the unmated probes' best scores, k = floor(f x unmated). A mate
    enrolled more than once counts by its best; a tie counts against it. Raises `UserError` unless a probe is mated.
    """
    mates, others, ahead = np.empty(len(probes)), np.empty(len(probes)), np.empty(len(probes), np.int64)
    for start in range(0, len(probes), PROBES):
        part = slice(start, start + PROBES)
        cosines = probes[part] @ gallery.T
        same = subjects[part, None] == enrolled
        mates[part] = np.max(cosines, axis=1, where=same, initial=-np.inf)
        others[part] = np.max(cosines, axis=1, where=~same, initial=-np.inf)
        ahead[part] = np.count_nonzero(~same & (cosines >= mates[part, None]), axis=1)
    mated = np.isin(subjects, enrolled)
    if not mated.any():
        raise UserError("No probe shows anyone of the gallery.", "the lists of gallery and probes must share subjects")
    highest = np.sort(others[~mated])[::-1]
    counts = {fpir: rank_at(fpir, len(highest)) for fpir in fpirs}
    threshold = {fpir: float(highest[k - 1]) if k else nan for fpir, k in counts.items()}
    return Identification(
        rank={k: float(np.mean(ahead[mated] < k)) for k in ranks},
        tpir={fpir: float(np.mean(mates[mated] > value)) if counts[fpir] else nan for fpir, value in threshold.items()},
        threshold=threshold,
        mated=int(mated.sum()),
        unmated=len(highest),
    )


def average(galleries: Sequence[Identification]) -> Identification | None:
    """The mean over galleries of ranks, TPIRs and thresholds, with all their probes; None without galleries."""
    if not galleries:
        return None
    first = galleries[0]
    return Identification(
        rank={k: float(np.mean([one.rank[k] for one in galleries])) for k in first.rank},
        tpir={fpir: float(np.mean([one.tpir[fpir] for one in galleries])) for fpir in first.tpir},
        threshold={fpir: float(np.mean([one.threshold[fpir] for one in galleries])) for fpir in first.threshold},
        mated=sum(one.mated for one in galleries),
        unmated=sum(one.unmated for one in galleries),
    )
