"""Ranges and scales: against formulas written out here, and against brute force over the raw values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.calibrate import collect
from kd2edge.graph.fold import fold
from kd2edge.graph.histogram import BINS, CANDIDATES, Extremes, Histogram
from kd2edge.graph.run import run_onnx
from kd2edge.graph.scales import Range, affine, fit_bias, has_vnni, quantize_weight, symmetric, weight_scales
from tests.graphs import SIZE, images, residual_net

Values = NDArray[np.float32]
VALUES = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32))


def fake_quantized(x: Values, limits: Range, signed: bool) -> NDArray[np.float64]:
    """What QuantizeLinear and DequantizeLinear make of `x`, by the ONNX specification."""
    scale, zero = (symmetric(limits), 0) if signed else affine(limits)
    low, high = (-128, 127) if signed else (0, 255)
    result: NDArray[np.float64] = (np.clip(np.rint(x / float(scale)) + zero, low, high) - zero) * float(scale)
    return result


def error(x: Values, limits: Range, signed: bool) -> float:
    return float(((fake_quantized(x, limits, signed) - x) ** 2).sum())


@given(VALUES, st.booleans())
def test_a_range_represents_what_lies_in_it_to_half_a_step(x: Values, signed: bool) -> None:
    limits = Range(float(x.min()), float(x.max()))
    step = float(symmetric(limits) if signed else affine(limits)[0])
    inside = np.abs(fake_quantized(x, limits, signed) - x)
    assert inside.max() <= step * (0.501 if signed else 1.001)  # rounding the zero point shifts the uint8 grid


@given(VALUES)
def test_zero_is_exact_and_the_zero_point_a_byte(x: Values) -> None:
    scale, zero = affine(Range(float(x.min()), float(x.max())))
    assert 0 <= zero <= 255
    assert scale > 0
    assert fake_quantized(np.zeros(1, np.float32), Range(float(x.min()), float(x.max())), signed=False)[0] == 0


@given(st.lists(VALUES, min_size=1, max_size=5))
@settings(deadline=None)
def test_a_grown_histogram_counts_as_one_made_at_its_final_width(batches: list[Values]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    values = np.concatenate(batches)
    nonzero = values[values != 0]
    assert histogram.counts.sum() == len(nonzero)
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


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", ["normal", "outlier", "relu", "laplace"])
def test_the_range_chosen_is_as_good_as_brute_force_on_the_values(shape: str, signed: bool) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal(20_000).astype(np.float32)
    if shape == "outlier":
        x[0] = 80
    elif shape == "relu":
        x = np.maximum(x, 0)
    elif shape == "laplace":
        x = random.laplace(size=20_000).astype(np.float32)
    histogram = Histogram()
    for batch in np.split(x, 4):
        histogram.update(batch)
    chosen = error(x, histogram.limits(signed), signed)
    low, high = float(x.min()), float(x.max())
    largest = max(-low, high)
    if signed:
        tried = [Range(-c * largest, c * largest) for c in CANDIDATES]
    else:
        tried = [Range(c * low, d * high) for c in CANDIDATES[::4] for d in CANDIDATES[::4]]
    assert chosen <= 1.05 * min(error(x, limits, signed) for limits in tried)


def test_after_a_relu_the_range_begins_at_zero() -> None:
    histogram = Histogram()
    histogram.update(np.maximum(np.random.default_rng(0).standard_normal(5000), 0).astype(np.float32))
    limits = histogram.limits(signed=False)
    assert limits.low == 0
    assert affine(limits)[1] == 0


def test_one_outlier_is_clipped_by_mse_and_kept_by_minmax() -> None:
    """n values at a step of T / 127 cost n (T / 127)² / 12, clipping 40 to T costs (40 - T)²: the sum is least at T."""
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    x[7] = 40
    watched: list[Extremes] = [Histogram(), Extremes()]
    for observer in watched:
        observer.update(x)
    clipped, kept = (observer.limits(signed=True).high for observer in watched)
    assert kept == 40
    assert clipped == pytest.approx(40 / (1 + 200_000 / (12 * 127**2)), rel=0.1)


@pytest.mark.parametrize("calibrator", ["mse", "minmax"])
def test_a_tensor_that_is_always_zero_gets_some_usable_scale(calibrator: str) -> None:
    observer = Histogram() if calibrator == "mse" else Extremes()
    observer.update(np.zeros((2, 3), np.float32))
    for signed in (True, False):
        assert fake_quantized(np.zeros(3, np.float32), observer.limits(signed), signed).tolist() == [0, 0, 0]
    assert weight_scales(np.zeros((2, 4)), 0, "mse").tolist() == [1, 1]


@given(arrays.arrays(np.float32, (3, 17), elements=st.floats(-8, 8, width=32)), st.sampled_from([7, 8]))
@settings(deadline=None)
def test_weight_scales_are_the_largest_magnitude_or_better(weight: Values, bits: int) -> None:
    largest = {7: 63, 8: 127}[bits]
    widest = weight_scales(weight, 0, "minmax", bits)
    magnitudes = np.abs(weight).max(axis=1)
    np.testing.assert_allclose(widest, np.where(magnitudes > 1e-35, magnitudes / largest, 1), rtol=1e-6)
    chosen = weight_scales(weight, 0, "mse", bits)
    errors = []
    for scales in (widest, chosen):
        integers = quantize_weight(weight, scales, 0, bits)
        assert np.abs(integers.astype(int)).max() <= largest
        errors.append(((integers * scales[:, None].astype(np.float64) - weight) ** 2).sum(axis=1))
    assert (errors[1] <= errors[0] * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_weight_scales_go_along_their_axis(axis: int) -> None:
    weight = np.array([[1.27, -12.7, 127], [0.1, 1, 10]], dtype=np.float32)
    expected = [1, 10 / 127] if axis == 0 else [0.01, 0.1, 1]
    np.testing.assert_allclose(weight_scales(weight, axis, "minmax"), expected, rtol=1e-6)
    integers = quantize_weight(weight, weight_scales(weight, axis, "minmax"), axis)
    assert np.abs(integers).max(axis=1 - axis).tolist() == [127] * (2 + axis)


def test_a_scale_is_widened_where_the_bias_would_not_fit() -> None:
    scales = np.array([1e-3, 1e-12], dtype=np.float32)
    fitted = fit_bias(scales, np.array([5.0, -5.0]), np.float32(0.01))
    assert fitted[0] == scales[0]
    assert abs(round(-5.0 / (0.01 * float(fitted[1])))) <= 2**31 - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("flags\t: fpu avx2 avx512f", False), ("flags\t: avx512f avx512_vnni", True), ("flags : avx_vnni avx2", True)],
)
def test_vnni_is_read_off_the_flags(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}\n")
    assert has_vnni(tmp_path / "cpuinfo") is expected
    assert not has_vnni(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def net() -> ModelProto:
    return fold(residual_net())


def test_minmax_is_the_extremes_over_all_batches(net: ModelProto) -> None:
    output = net.graph.output[0].name
    x = images(12)
    ranges, count = collect(net, ["images", output], [x[:5], x[5:]], "minmax", signed=True)
    expected = run_onnx(net, x)
    assert count == 12
    assert ranges["images"] == Range(float(x.min()), float(x.max()))
    np.testing.assert_allclose([ranges[output].low, ranges[output].high], [expected.min(), expected.max()], rtol=1e-5)


def test_batches_are_taken_one_at_a_time(net: ModelProto) -> None:
    made: list[int] = []

    def batches() -> Iterator[Values]:
        for index in range(6):
            made.append(index)
            yield images(2, seed=index)

    names = [node.output[0] for node in net.graph.node if node.op_type == "Relu"]
    ranges, count = collect(net, names, batches(), "mse", signed=False)
    assert (made, count) == (list(range(6)), 12)
    assert all(limits.low == 0 < limits.high for limits in ranges.values())


def test_no_images_are_refused(net: ModelProto) -> None:
    with pytest.raises(UserError, match="no calibration images"):
        collect(net, ["images"], [], "mse", signed=True)


def test_constant_images_are_refused(net: ModelProto) -> None:
    grey = np.full((4, 3, SIZE, SIZE), 0.5, np.float32)
    with pytest.raises(UserError, match=r"pixel is 0\.5"):
        collect(net, ["images"], [grey, grey], "mse", signed=True)


def test_images_of_another_shape_or_type_are_refused(net: ModelProto) -> None:
    batches: list[Any] = [images(2, size=2 * SIZE), images(2).astype(np.float64), images(2)[0], images(2)[:0]]
    for batch in batches:
        with pytest.raises(UserError, match="calibration batch"):
            collect(net, ["images"], [batch], "mse", signed=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("calibrator", ["mse", "minmax"])
def test_what_is_not_finite_is_named(net: ModelProto, calibrator: str, bad: float) -> None:
    batch = images(2)
    batch[1, 0, 3, 3] = bad
    with pytest.raises(UserError, match="'images' is not finite"):
        collect(net, ["images"], [batch], calibrator, signed=True)  # type: ignore[arg-type]


def test_an_overflow_inside_the_model_is_named(net: ModelProto) -> None:
    bright = ModelProto()
    bright.CopyFrom(net)
    first = bright.graph.node[0]
    kernel = next(tensor for tensor in bright.graph.initializer if tensor.name == first.input[1])
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(3e38), kernel.name))
    with pytest.raises(UserError, match=f"'{first.output[0]}' is not finite"):
        collect(bright, [first.output[0]], [images(2)], "minmax", signed=True)
