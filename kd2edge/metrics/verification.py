"""TAR at a FAR and EER over all pairs of a set: exact, and in bounded memory.

At FAR f the threshold is the k-th highest impostor score, k = floor(f x impostors), and a pair is accepted strictly
above it: the FAR realised is below f, never beyond. A first pass counts impostor scores in fine bins; a second looks
exactly into the few bins where a threshold or the EER lies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics._pairs import AllPairs, refuse_none
from kd2edge.metrics.roc import rank_at

FARS = (1e-2, 1e-3, 1e-4)
BINS = 1 << 16  # over cosines: 3e-5 wide, hence at most a few thousand distinct float32 in a bin away from zero


@dataclass(frozen=True)
class Verification:
    """Results by FAR asked. Where impostors are too few for a FAR (k = 0), its TAR and its threshold are NaN."""

    eer: float
    tar: dict[float, float]
    threshold: dict[float, float]
    genuine: int
    impostor: int


@dataclass(frozen=True)
class Rates:
    """What a frozen threshold realises: the shares of impostor and of genuine pairs strictly above it."""

    far: float
    tar: float


@dataclass(frozen=True)
class _Bin:
    """Impostor scores of one bin: distinct `values` ascending, the `counts` of each, and how many lie `above` it."""

    values: npt.NDArray[np.floating]
    counts: Ints
    above: int


def verify(embeddings: Floats, labels: Ints, fars: Sequence[float] = FARS) -> Verification:
    """Cosines of all N (N - 1) / 2 pairs of float32 [N, D] embeddings; genuine where int64 [N] labels agree.

    The EER is (FAR + FRR) / 2 at the threshold where |FAR - FRR| is least, the higher threshold of two that tie.
    Raises `UserError` for NaN, infinite or zero embeddings, and unless there are genuine and impostor pairs.
    """
    pairs = AllPairs(embeddings, labels)
    genuine, histogram = _count(pairs)
    impostor = int(histogram.sum())
    refuse_none(len(genuine), impostor)
    above = impostor - np.cumsum(histogram)
    ranks = {far: rank_at(far, impostor) for far in fars}
    code_of = {rank: int(np.flatnonzero(above + histogram >= rank)[-1]) for rank in ranks.values() if rank}
    crossing = _crossing(genuine, above, impostor)
    bins = _look_into({crossing, *code_of.values()}, pairs, histogram, above)
    eer = _equal_error(bins[crossing], genuine[_codes(genuine) == crossing], genuine, impostor)
    return _verification(eer, genuine, impostor, ranks, {rank: bins[code] for rank, code in code_of.items()})


def verify_pairs(
    scores: npt.NDArray[np.floating], same: npt.NDArray[np.bool_], fars: Sequence[float] = FARS
) -> Verification:
    """As `verify`, for a list of pairs: [P] scores, higher for likelier, and [P] whether each pair is genuine.

    Raises `UserError` for scores that are not finite, and unless there are genuine and impostor pairs.
    """
    if not np.isfinite(scores).all():
        raise UserError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} pair scores are not finite.")
    genuine, impostors = np.sort(scores[same]), scores[~same]
    refuse_none(len(genuine), len(impostors))
    values, counts = np.unique(impostors, return_counts=True)
    everything = _Bin(values, counts, above=0)
    ranks = {far: rank_at(far, len(impostors)) for far in fars}
    eer = _equal_error(everything, genuine, genuine, len(impostors))
    return _verification(eer, genuine, len(impostors), ranks, dict.fromkeys(ranks.values(), everything))


def rates_at(threshold: float, embeddings: Floats, labels: Ints) -> Rates:
    """FAR and TAR over all pairs at a threshold frozen elsewhere: on a validation set, or with the float model.

    Raises `UserError` as `verify` does, and if `threshold` is NaN.
    """
    if threshold != threshold:
        raise UserError("The threshold is NaN.", "it was taken at a FAR too small for the number of impostor pairs")
    accepted, pairs = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for kinds in AllPairs(embeddings, labels):
        accepted += [np.count_nonzero(scores > threshold) for scores in kinds]
        pairs += [scores.size for scores in kinds]
    refuse_none(*pairs.tolist())
    return Rates(far=float(accepted[1] / pairs[1]), tar=float(accepted[0] / pairs[0]))


def _codes(scores: Floats) -> Ints:
    """The bin of each cosine: monotone, since float32 addition and multiplication are."""
    return np.asarray((scores + np.float32(1.001)) * np.float32(BINS / 2.002), np.int64)


def _count(pairs: Iterable[tuple[Floats, Floats]]) -> tuple[Floats, Ints]:
    """All genuine scores, ascending, and the number of impostor scores in each bin."""
    found, histogram = [], np.zeros(BINS, np.int64)
    for genuine, impostor in pairs:
        found.append(genuine)
        histogram += np.bincount(_codes(impostor), minlength=BINS)
    return np.sort(np.concatenate(found)), histogram


def _crossing(genuine: Floats, above: Ints, impostor: int) -> int:
    """The first bin at whose upper edge FRR exceeds FAR: the threshold of the EER is in it, or just below it."""
    rejected = np.cumsum(np.bincount(_codes(genuine), minlength=BINS))
    return int(np.argmax(above * len(genuine) < rejected * impostor))


def _look_into(
    chosen: set[int], pairs: Iterable[tuple[Floats, Floats]], histogram: Ints, above: Ints
) -> dict[int, _Bin]:
    """The exact impostor scores of the chosen bins. Distinct values bound the memory even if a model collapsed."""
    wanted = np.zeros(BINS, np.bool_)
    wanted[list(chosen)] = True
    found = [np.unique(scores[wanted[_codes(scores)]], return_counts=True) for _, scores in pairs]
    values, where = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, where, np.concatenate([counts for _, counts in found]))
    codes = _codes(values)
    if not np.array_equal(np.bincount(codes, counts, BINS)[wanted], histogram[wanted]):
        raise RuntimeError("two passes over the same pairs gave different scores: this BLAS is not deterministic")
    return {code: _Bin(values[codes == code], counts[codes == code], int(above[code])) for code in chosen}


def _equal_error(crossing: _Bin, within: Floats, genuine: Floats, impostor: int) -> float:
    """EER over the thresholds in a bin, `within` being its genuine scores, and the threshold that accepts it whole."""
    scores = np.unique(np.concatenate([crossing.values, within]))
    thresholds = np.concatenate([np.nextafter(scores[:1], -np.inf), scores])[::-1]
    below = np.searchsorted(crossing.values, thresholds, side="right")
    accepted = crossing.above + crossing.counts.sum() - np.append(0, np.cumsum(crossing.counts))[below]
    rejected = np.searchsorted(genuine, thresholds, side="right")
    best = np.argmin(np.abs(accepted * len(genuine) - rejected * impostor))
    return float((accepted[best] / impostor + rejected[best] / len(genuine)) / 2)


def _verification(
    eer: float, genuine: Floats, impostor: int, ranks: dict[float, int], bins: dict[int, _Bin]
) -> Verification:
    threshold = {far: _kth_highest(bins[rank], rank) if rank else nan for far, rank in ranks.items()}
    tar = {far: float(np.mean(genuine > value)) if ranks[far] else nan for far, value in threshold.items()}
    return Verification(eer, tar, threshold, len(genuine), impostor)


def _kth_highest(bin: _Bin, rank: int) -> float:
    """The impostor score of that rank, 1 being the highest of all bins."""
    at_or_above = bin.above + np.cumsum(bin.counts[::-1])[::-1]
    return float(bin.values[np.flatnonzero(at_or_above >= rank)[-1]])
