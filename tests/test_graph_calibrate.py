"""Scales, against formulas written out here, and what a calibration pass collects and refuses."""

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
from kd2edge.graph.calibrate import collect, part
from kd2edge.graph.fold import fold
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


def test_what_is_collected_is_over_all_batches(net: ModelProto) -> None:
    output = net.graph.output[0].name
    x = images(12)
    seen, count = collect(net, [output], [x[:5], x[5:]])
    expected = run_onnx(net, x)
    assert count == 12
    assert (seen["images"].low, seen["images"].high) == (x.min(), x.max())
    np.testing.assert_allclose([seen[output].low, seen[output].high], [expected.min(), expected.max()], rtol=1e-5)
    np.testing.assert_allclose(seen[output].means, expected.mean(axis=0), atol=1e-5)


def test_batches_are_taken_one_at_a_time(net: ModelProto) -> None:
    made: list[int] = []

    def batches() -> Iterator[Values]:
        for index in range(6):
            made.append(index)
            yield images(2, seed=index)

    names = [node.output[0] for node in net.graph.node if node.op_type == "Relu"]
    seen, count = collect(net, names, batches())
    assert (made, count) == (list(range(6)), 12)
    assert all(seen[name].low == 0 < seen[name].high for name in names)


@pytest.mark.parametrize(("sizes", "group"), [((16,), 1), ((3, 5, 1, 7), 1), ((8, 8), 2), ((4, 4, 4, 4, 4), 4)])
def test_a_fourth_of_the_images_is_held_out(sizes: tuple[int, ...], group: int) -> None:
    total = sum(sizes)
    batches = np.split(np.arange(total, dtype=np.float32).reshape(-1, 1, 1, 1), np.cumsum(sizes)[:-1])
    held, shown = (np.concatenate(list(part(batches, which, group))).ravel().tolist() for which in (True, False))
    assert sorted(held + shown) == list(range(total))
    assert held == [index for index in range(total) if index // group % 4 == 3]


def test_no_images_are_refused(net: ModelProto) -> None:
    with pytest.raises(UserError, match="no calibration images"):
        collect(net, [], [])


def test_constant_images_are_refused(net: ModelProto) -> None:
    grey = np.full((4, 3, SIZE, SIZE), 0.5, np.float32)
    with pytest.raises(UserError, match=r"pixel is 0\.5"):
        collect(net, [], [grey, grey])


@pytest.mark.parametrize("far", [1e30, 255.0])
def test_a_pixel_or_an_image_far_beyond_the_others_is_refused(net: ModelProto, far: float) -> None:
    """One broken pixel; one image in two hundred whose bytes were not brought to -1..1 as the others'."""
    x = np.clip(images(200), -1, 1)
    if far == 255:
        x[3] = (x[3] + 1) * 127.5
    else:
        x[3, 1, 2, 2] = far
    with pytest.raises(UserError, match="while 99 % of them stay below"):
        collect(net, [], [x * np.float32(0.9)])


def test_dark_sparse_and_grainy_pictures_are_not_refused(net: ModelProto) -> None:
    random = np.random.default_rng(0)
    shape = (8, 3, SIZE, SIZE)
    dark = random.poisson(1.5, shape) / 255
    dark[:, :, 3, 3] = 1.0
    strokes = np.zeros(shape)
    strokes[:, :, 5] = 1.0
    white = (1 - strokes - 0.92) / 0.26
    for pictures in (dark, strokes, white, dark * 255):
        assert collect(net, [], [pictures.astype(np.float32)])[1] == 8


def test_images_of_another_shape_or_type_are_refused(net: ModelProto) -> None:
    batches: list[Any] = [images(2, size=2 * SIZE), images(2).astype(np.float64), images(2)[0], images(2)[:0]]
    for batch in batches:
        with pytest.raises(UserError, match="calibration batch"):
            collect(net, [], [batch])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named(net: ModelProto, bad: float) -> None:
    batch = images(2)
    batch[1, 0, 3, 3] = bad
    with pytest.raises(UserError, match="'images' is not finite"):
        collect(net, [], [batch])


def test_an_output_that_is_not_finite_is_named_though_nobody_watches_it(net: ModelProto) -> None:
    broken = ModelProto()
    broken.CopyFrom(net)
    last = broken.graph.node[-1]
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == last.input[2])
    bias.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(bias), np.nan), bias.name))
    with pytest.raises(UserError, match=f"'{last.output[0]}' is not finite"):
        collect(broken, [], [images(2)])


def test_an_overflow_inside_the_model_is_named(net: ModelProto) -> None:
    bright = ModelProto()
    bright.CopyFrom(net)
    first = bright.graph.node[0]
    kernel = next(tensor for tensor in bright.graph.initializer if tensor.name == first.input[1])
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(3e38), kernel.name))
    with pytest.raises(UserError, match=f"'{first.output[0]}' is not finite"):
        collect(bright, [first.output[0]], [images(2)])
