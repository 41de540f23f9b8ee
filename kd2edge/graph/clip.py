"""The range that a tensor's histogram recommends: where to clip, so that what is left gets finer steps.

No rule is right everywhere, so there are four: nothing clipped; a ten-thousandth of the values clipped; the least
expected squared error (Sung et al., arXiv 1511.06488; Banner et al., arXiv 1810.05723); the least divergence of the
quantized distribution from the clipped one (Migacz, "8-bit inference with TensorRT", GTC 2017).
"""

from collections.abc import Callable

import numpy as np

from kd2edge.graph.histogram import BINS, Histogram
from kd2edge.graph.scales import Range, affine, symmetric
from kd2edge.graph.topology import Array
from kd2edge.schema.quantize import Clipping

PERCENT = 99.99
STEP = 16  # bins between the ends that are tried
SHARES = np.concatenate([2.0 ** (np.arange(-32, 0) / 8) * STEP, np.arange(STEP, BINS + 1, STEP)]) / BINS
ROUNDS = 2
Cost = Callable[[float, float], float]
Tops = Callable[[float], list[float]]


def clip(seen: Histogram, clipping: Clipping, signed: bool) -> Range:
    """The range that `clipping` chooses: for symmetric int8 if `signed`, else for affine uint8."""
    if clipping == "minmax" or not seen.counts.any():
        return Range(seen.low, seen.high)
    if clipping == "percentile":
        return _percentile(seen, signed)
    if clipping == "mse":
        return _cheapest(seen, signed, _shares, lambda low, high: squared_error(seen, Range(low, high), signed))
    return _cheapest(seen, signed, _edges(seen), lambda low, high: divergence(seen, Range(low, high), signed))


def _percentile(seen: Histogram, signed: bool) -> Range:
    """99.99 % of the values, zeros with them, lie within: by magnitude if `signed`, else as many cut on either side."""
    if signed:
        top = min(_rank(seen.magnitudes, 0, seen.zeros, 1 - PERCENT / 100) * seen.width, seen.largest)
        return Range(-top, top)
    cut = (1 - PERCENT / 100) / 2
    high = (_rank(seen.counts, BINS, seen.zeros, cut) - BINS) * seen.width
    low = (BINS - _rank(seen.counts[::-1], BINS - 1, seen.zeros, cut)) * seen.width
    return Range(max(low, seen.low), min(high, seen.high))


def _rank(counts: Array, middle: int, zeros: int, cut: float) -> int:
    """The number of bins, from the first, beyond which the share `cut` of all values lies; zeros are in `middle`."""
    counts = counts.copy()
    counts[middle] += zeros
    return int(len(counts) - np.searchsorted(np.cumsum(counts[::-1]), cut * counts.sum(), side="right"))


def _cheapest(seen: Histogram, signed: bool, tops: Tops, cost: Cost) -> Range:
    """The range of least cost. Of an affine one each end in turn, the other held: the costs are nearly separable."""
    if signed:
        top = min(tops(seen.largest), key=lambda top: cost(-top, top))
        return Range(-top, top)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    lows, highs = tops(-low), tops(high)
    for _ in range(ROUNDS):
        high = min(highs, key=lambda top: cost(low, top))
        low = -min(lows, key=lambda top: cost(-top, high))
    return Range(low, high)


def _shares(largest: float) -> list[float]:
    """Evenly spaced shares of `largest`, and below the least of them finer ones for tensors with far outliers."""
    return [float(top) for top in SHARES * largest] if largest > 0 else [0.0]


def _edges(seen: Histogram) -> Tops:
    """Every sixteenth edge of a bin below `largest`, and that itself."""
    edges = np.arange(STEP, BINS, STEP) * seen.width
    return lambda largest: [*(float(top) for top in edges if top < largest), largest]


def squared_error(seen: Histogram, limits: Range, signed: bool) -> float:
    """Expected squared error, summed over the values, when they become the 256 integers that represent `limits`.

    Values are taken to lie at the centres of their bins, but where steps are finer than bins to be spread evenly.
    """
    scale, first, last = _integers(limits, signed)
    places = (np.arange(-BINS, BINS) + 0.5) * (seen.width / scale)
    error = np.clip(np.rint(places), first, last) - places
    if scale < seen.width:
        error[(places > first) & (places < last)] = 1 / np.sqrt(12)
    return float((seen.counts * (error * scale) ** 2).sum())


def _integers(limits: Range, signed: bool) -> tuple[float, int, int]:
    """Scale, first and last integer (less the zero point) of the format that represents `limits`."""
    if signed:
        return float(symmetric(limits)), -128, 127
    scale, zero = affine(limits)
    return float(scale), -zero, 255 - zero


def divergence(seen: Histogram, limits: Range, signed: bool) -> float:
    """Kullback-Leibler divergence, in nats, of the quantized distribution from the one clipped to `limits`.

    The clipped one holds what lies outside in its end bins. The quantized one merges the bins within into levels, 128
    of magnitudes if `signed`, else 256, and spreads each level evenly over those of its bins that the clipped one
    uses. Fewer bins than levels, or a level that nothing but clipped values reaches, are infinitely divergent.
    """
    counts, levels = (seen.magnitudes, 128) if signed else (seen.counts, 256)
    first = 0 if signed else BINS - _bins(-limits.low, -seen.low, seen.width)
    last = len(counts) - BINS + _bins(limits.high, seen.largest if signed else seen.high, seen.width)
    within = counts[first:last].astype(np.float64)
    if len(within) < levels:
        return np.inf
    clipped = within.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    return _kullback_leibler(clipped, _requantized(within, clipped > 0, levels))


def _bins(top: float, largest: float, width: float) -> int:
    """How many bins of one side lie below `top`; the largest value may, by rounding, lie a bin above its own."""
    return min(round(top / width) if top < largest else int(top / width * (1 + 1e-6)) + 1, BINS) if top > 0 else 0


def _requantized(within: Array, used: Array, levels: int) -> Array:
    level = np.arange(len(within)) * levels // len(within)
    totals = np.bincount(level, weights=within, minlength=levels)
    sharers = np.bincount(level, weights=used, minlength=levels)
    spread: Array = np.where(used, (totals / np.maximum(sharers, 1))[level], 0.0)
    return spread


def _kullback_leibler(true: Array, other: Array) -> float:
    used = true > 0
    if not other[used].all():
        return np.inf
    p, q = true[used] / true.sum(), other[used] / other.sum()
    return float((p * np.log(p / q)).sum())
