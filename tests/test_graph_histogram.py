"""What a calibration pass remembers: against numpy on all the values at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from kd2edge.graph.histogram import BINS, ChannelMaxima, Channels, Histogram

Values = NDArray[np.float32]
VALUES = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32)).map(
    lambda values: np.where(np.abs(values) < 1e-30, np.float32(0), values)  # what is smaller is a test of its own
)


@given(st.lists(VALUES, min_size=1, max_size=5))
@settings(deadline=None)
def test_a_grown_histogram_counts_as_one_made_at_its_final_width(batches: list[Values]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    values = np.concatenate(batches)
    nonzero = values[values != 0]
    assert (histogram.counts.sum(), histogram.zeros) == (len(nonzero), len(values) - len(nonzero))
    assert histogram.magnitudes.sum() == len(nonzero)
    if len(nonzero):
        places = np.floor(nonzero.astype(np.float64) * (BINS / histogram.reach)).clip(-BINS, BINS - 1) + BINS
        expected = np.cumsum(np.bincount(places.astype(int), minlength=2 * BINS))
        counted = np.cumsum(histogram.counts)
        # A value on an edge (the largest one so far, say) may be counted in the bin beside.
        assert (counted[:-1] <= expected[1:]).all()
        assert (expected[:-1] <= counted[1:]).all()
        assert np.abs(nonzero).max() <= histogram.reach < 2 * np.abs(nonzero).max()


def test_memory_does_not_grow_with_the_images() -> None:
    histogram = Histogram()
    random = np.random.default_rng(0)
    for power in range(12):
        histogram.update((random.standard_normal(1000) * 2**power).astype(np.float32))
        assert histogram.counts.nbytes == 2 * BINS * 8


@pytest.mark.parametrize("largest", [3.4e38, 1e-20, 1e-36, 1e-44])
def test_huge_and_denormal_values_are_counted_or_left_to_the_extremes(largest: float) -> None:
    histogram = Histogram()
    values = (np.linspace(-1, 1, 101) * largest).astype(np.float32)
    histogram.update(values)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.counts.sum() == (100 if largest > 1e-34 else 0)


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (5, 3)])
def test_channels_have_means_and_maxima(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    seen, widest = Channels(), ChannelMaxima()
    for part in (values[:2], values[2:]):
        seen.update(part)
        widest.update(part)
    by_channel = np.moveaxis(values, 1, 0).reshape(3, -1)
    np.testing.assert_allclose(seen.means, by_channel.mean(axis=1), atol=1e-6)
    assert widest.magnitudes.tolist() == np.abs(by_channel).max(axis=1).tolist()
