"""How much faster one model is than another, of latencies taken in turns: two percentiles' ratio or difference.

Latencies are neither independent (a busy machine stays busy a while) nor normal. So whole stretches of time are what
is resampled, those of both models together, as they fell upon the same machine: the block bootstrap with blocks that
do not overlap (Carlstein, Annals of Statistics 14(3), 1986). Ten to thirty long stretches serve better than many short
ones (Schmeiser, Operations Research 30(3), 1982, of batch means); few are made good for by `expanded`.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from kd2edge.stats.percentiles import Samples
from kd2edge.stats.resampling import RESAMPLES, Bootstrap, Counts, Doubles, Method, Statistic, bootstrap

STRETCHES = 20


def in_stretches(samples: Samples, stretches: int = STRETCHES) -> list[Doubles]:
    """Samples [n] in the order they were taken, cut into so many stretches of equal length, or nearly.

    Raises `ValueError` if there are fewer samples than stretches.
    """
    taken = np.asarray(samples, np.float64)
    if len(taken) < stretches:
        raise ValueError(f"{len(taken)} samples do not make {stretches} stretches")
    return np.array_split(taken, stretches)


def percentile_ratio(
    model: Sequence[Samples],
    reference: Sequence[Samples],
    q: float = 50,
    method: Method = "expanded",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """The model's q-th percentile over the reference's, 0 < q <= 100: below 1 the model is faster.

    Holds an int32 for each sample and stretch. Each model is given by stretches of time (the turns that they took, or
    `in_stretches`), the i-th of one beside the i-th of the other; how many samples a stretch has may differ.
    Percentiles are nearest ranks, of all samples together. Raises `ValueError` for fewer than two stretches, for
    stretches without a counterpart or samples, and where q is out of range or a sample is not above 0.
    """
    over, under = _side_by_side(model, reference, q)
    return bootstrap(lambda weights: over(weights) / under(weights), len(model), method, resamples, seed)


def percentile_change(
    model: Sequence[Samples],
    reference: Sequence[Samples],
    q: float = 50,
    method: Method = "expanded",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """The model's q-th percentile less the reference's, in the samples' unit; all else as in `percentile_ratio`."""
    ours, theirs = _side_by_side(model, reference, q)
    return bootstrap(lambda weights: ours(weights) - theirs(weights), len(model), method, resamples, seed)


def _side_by_side(model: Sequence[Samples], reference: Sequence[Samples], q: float) -> tuple[Statistic, Statistic]:
    if len(model) != len(reference):
        raise ValueError(f"{len(model)} stretches of one model, {len(reference)} of the other")
    if not 0 < q <= 100:
        raise ValueError(f"a percentile lies in (0, 100], not at {q}")
    return _weighted_percentile(model, q), _weighted_percentile(reference, q)


def _weighted_percentile(stretches: Sequence[Samples], q: float) -> Statistic:
    taken = [np.asarray(stretch, np.float64) for stretch in stretches]
    values = np.concatenate([np.empty(0), *taken])
    if not (min(map(len, taken), default=0) and (values > 0).all()):
        raise ValueError("latencies need samples in every stretch, all of them above 0")
    order, share = np.argsort(values, kind="stable"), Fraction(str(q)) / 100
    values, owner = values[order], np.repeat(np.arange(len(taken)), [len(stretch) for stretch in taken])[order]
    upto = np.cumsum(
        owner[:, None] == np.arange(len(taken)), axis=0, dtype=np.int32
    )  # of each stretch, up to each value

    def statistic(weights: Counts) -> Doubles:
        total = weights @ upto[-1].astype(np.int64)
        rank = -(-total * share.numerator // share.denominator)
        low, high = np.zeros(len(weights), np.int64), np.full(len(weights), len(values) - 1)
        for _ in range(len(values).bit_length()):
            middle = (low + high) // 2
            reached = (weights * upto[middle]).sum(axis=1) >= rank
            low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
        return np.asarray(values[high], np.float64)

    return statistic
