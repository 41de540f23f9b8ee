"""What a calibration pass remembers of a tensor: extremes, a histogram of fixed size whose range grows, channel means.

Memory does not depend on the number of images.
"""

import numpy as np

from kd2edge.graph.scales import SMALLEST
from kd2edge.graph.topology import Array

BINS = 2048


class Extremes:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)

    def update(self, values: Array) -> None:
        """Take in a batch of values of any shape."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))


class Histogram(Extremes):
    """Values counted in 2048 bins on each side of zero; a value beyond them doubles the width of every bin.

    Exact zeros (most of what follows a ReLU) are counted apart, in `zeros`: every range represents them without error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reach = 0.0
        self.counts = np.zeros(2 * BINS, dtype=np.int64)  # from -reach to reach
        self.zeros = 0

    @property
    def width(self) -> float:
        """Of one bin."""
        return self.reach / BINS

    @property
    def magnitudes(self) -> Array:
        """Counts of both sides together: int64 [2048], from 0 to `reach`."""
        folded: Array = self.counts[BINS:] + self.counts[:BINS][::-1]
        return folded

    def update(self, values: Array) -> None:
        """Take in a batch of values of any shape."""
        super().update(values)
        self._grow(self.largest)
        zeros = int(values.size - np.count_nonzero(values))
        self.zeros += zeros
        if self.reach > BINS * SMALLEST:
            places = np.floor(values.ravel() * (BINS / self.reach)).astype(np.int32) + BINS
            counts = np.bincount(np.minimum(places, 2 * BINS - 1), minlength=2 * BINS)
            counts[BINS] -= zeros
            self.counts += counts

    def _grow(self, largest: float) -> None:
        if self.reach == 0:
            self.reach = largest
        while self.reach < largest:
            self.reach *= 2
            self.counts = np.pad(self.counts.reshape(BINS, 2).sum(axis=1), BINS // 2)


class Channels(Histogram):
    """A histogram that also knows the mean of each channel of its tensors [N, C, ...]."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: Array = np.zeros(1)
        self.places = 0

    def update(self, values: Array) -> None:
        """Take in a batch [N, C, ...]."""
        super().update(values)
        self.sums = self.sums + values.sum(axis=(0, *range(2, values.ndim)), dtype=np.float64)
        self.places += values.size // values.shape[1]

    @property
    def means(self) -> Array:
        """Mean of each channel: float64 [C]."""
        return self.sums / self.places


class ChannelMaxima(Extremes):
    """The largest magnitude of each channel of tensors [N, C, ...]."""

    def __init__(self) -> None:
        super().__init__()
        self.magnitudes: Array = np.zeros(1)

    def update(self, values: Array) -> None:
        """Take in a batch [N, C, ...]."""
        super().update(values)
        self.magnitudes = np.maximum(self.magnitudes, np.abs(values).max(axis=(0, *range(2, values.ndim))))
