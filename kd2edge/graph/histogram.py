"""What a calibration pass remembers of one tensor: its extremes, or a histogram of fixed size whose range grows.

Memory does not depend on the number of images. The clipping range with the least expected squared quantization error
is read off the histogram (Sung et al., arXiv 1511.06488; Banner et al., arXiv 1810.05723 for the trade-off).
"""

import numpy as np

from kd2edge.graph.scales import SMALLEST, Range, affine, symmetric
from kd2edge.graph.topology import Array

BINS = 2048
CANDIDATES = np.arange(16, BINS + 1, 16) / BINS
ROUNDS = 2


class Extremes:
    """The smallest and the largest value seen; `limits` is the widest range."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: Array) -> None:
        """Take in a batch of values of any shape."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def limits(self, signed: bool) -> Range:
        """The extremes, whatever the number format."""
        return Range(self.low, self.high)


class Histogram(Extremes):
    """Values counted in 2048 bins on each side of zero; a value beyond them doubles the width of every bin.

    Exact zeros (most of what follows a ReLU) are not counted: every range represents them without error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reach = 0.0
        self.counts = np.zeros(2 * BINS, dtype=np.int64)  # from -reach to reach

    def update(self, values: Array) -> None:
        """Take in a batch of values of any shape."""
        super().update(values)
        self._grow(max(-self.low, self.high))
        if self.reach > BINS * SMALLEST:
            places = np.floor(values.ravel() * (BINS / self.reach)).astype(np.int32) + BINS
            counts = np.bincount(np.minimum(places, 2 * BINS - 1), minlength=2 * BINS)
            counts[BINS] -= values.size - np.count_nonzero(values)
            self.counts += counts

    def _grow(self, largest: float) -> None:
        if self.reach == 0:
            self.reach = largest
        while self.reach < largest:
            self.reach *= 2
            self.counts = np.pad(self.counts.reshape(BINS, 2).sum(axis=1), BINS // 2)

    def limits(self, signed: bool) -> Range:
        """The range with the least expected squared error: symmetric int8 if `signed`, else affine uint8."""
        if not self.counts.any():
            return Range(self.low, self.high)
        return self._symmetric() if signed else self._affine()

    def _symmetric(self) -> Range:
        tops = CANDIDATES * max(-self.low, self.high)
        best = min(tops, key=lambda top: self._error(*_integers(Range(-top, top), signed=True)))
        return Range(-float(best), float(best))

    def _affine(self) -> Range:
        """Each end in turn, the other held: the error is nearly separable, so two rounds settle."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        lows, highs = CANDIDATES * low, CANDIDATES * high
        for _ in range(ROUNDS):
            high = min(highs, key=lambda top: self._error(*_integers(Range(low, float(top)), signed=False)))
            if self.low < 0:
                low = min(lows, key=lambda end: self._error(*_integers(Range(float(end), high), signed=False)))
        return Range(float(low), float(high))

    def _error(self, scale: float, first: int, last: int) -> float:
        """Expected squared error when values become integers from `first` to `last` times `scale`."""
        values = (np.arange(-BINS, BINS) + 0.5) * (self.reach / BINS)
        error = np.clip(np.rint(values / scale), first, last) * scale - values
        return float((self.counts * error**2).sum())


def _integers(limits: Range, signed: bool) -> tuple[float, int, int]:
    """Scale, first and last integer (less the zero point) of the format that represents `limits`."""
    if signed:
        return float(symmetric(limits)), -128, 127
    scale, zero = affine(limits)
    return float(scale), -zero, 255 - zero
