"""The inserter: its graphs are valid, load, fuse, and compute what quantization arithmetic says."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.parity import compare
from kd2edge.graph.placement import make_plan
from kd2edge.graph.quantize import Quantized, Remedies, calibrate_model, insert, quantize_model
from kd2edge.graph.run import run_onnx
from kd2edge.graph.scales import Range
from kd2edge.graph.topology import Topology, opset
from kd2edge.schema import Flavour
from kd2edge.schema.quantize import Calibrator
from tests.graphs import NETS, Net, face_net, images, pooled_net, residual_net

FLAVOURS: list[Flavour] = ["tensorrt", "ort-x86"]
CALIBRATORS: list[Calibrator] = ["auto", "minmax", "percentile", "entropy", "mse"]


def quantized(make: Callable[[], ModelProto], flavour: Flavour, calibrator: Calibrator = "mse") -> Quantized:
    remedies = Remedies(correct_bias="auto" if calibrator == "auto" else False)
    return quantize_model(make(), np.split(images(32), 4), flavour, calibrator, remedies=remedies)


def fused(model: ModelProto, tmp_path: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", NETS)
def test_a_quantized_net_is_valid_and_close_to_float(
    name: str, flavour: Flavour, calibrator: Calibrator, tmp_path: Path
) -> None:
    result = quantized(NETS[name], flavour, calibrator)
    save_model(result.model, tmp_path / "int8.onnx")
    loaded = load_model(tmp_path / "int8.onnx")
    assert 13 <= opset(loaded) <= 20
    unseen = images(24, seed=99)
    parity = compare(run_onnx(NETS[name](), unseen), run_onnx(loaded, unseen))
    assert parity.cosine_mean > 0.995
    assert parity.cosine_min > 0.98
    assert result.flavour == flavour
    if calibrator == "auto":
        assert (result.images, result.held_out) == (32, 8)
        assert result.errors[result.calibrator] == min(result.errors[name] for name in CALIBRATORS[1:])
    else:
        assert (result.images, result.held_out, result.calibrator) == (32, 0, calibrator)
    assert result.coverage.layers > 0


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_number_formats_are_those_of_the_flavour(flavour: Flavour) -> None:
    graph = Topology(quantized(residual_net, flavour).model)
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            zero = graph.constant(node.input[2])
            assert zero.dtype == (np.int8 if flavour == "tensorrt" else np.uint8)
            assert flavour == "ort-x86" or zero == 0
        elif node.op_type == "DequantizeLinear" and node.input[0] in graph.initializers:
            stored = graph.initializers[node.input[0]]
            assert stored.data_type == (TensorProto.INT8 if len(stored.dims) == 4 else TensorProto.INT32)
            assert not graph.constant(node.input[2]).any()
            assert flavour == "ort-x86" or stored.data_type == TensorProto.INT8
    weights = [node for node in graph.nodes if node.op_type == "Conv" and node.input[1] in graph.producer]
    assert all((node.input[2] in graph.initializers) == (flavour == "tensorrt") for node in weights)


@pytest.mark.parametrize("name", ["residual", "simkd", "pooled", "padded"])
def test_onnxruntime_runs_every_chosen_layer_in_integers(name: str, tmp_path: Path) -> None:
    result = quantized(NETS[name], "ort-x86")
    ran = fused(result.model, tmp_path)
    assert ran["QLinearConv"] + ran["QGemm"] == result.coverage.layers
    assert ran["Conv"] + ran["FusedConv"] == 0
    adds = sum(node.op_type == "Add" for node in NETS[name]().graph.node)
    assert ran["QLinearAdd"] == adds
    assert ran["Relu"] <= (name == "pooled")  # that behind the hidden Gemm


def test_a_face_net_keeps_three_layers_in_float_on_a_cpu(tmp_path: Path) -> None:
    result = quantized(face_net, "ort-x86")
    ran = fused(result.model, tmp_path)
    assert ran["QLinearConv"] == result.coverage.layers
    assert ran["Conv"] + ran["FusedConv"] + ran["Gemm"] == len(result.kept) == 3


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_graph_computes_what_the_arithmetic_says(flavour: Flavour) -> None:
    """One quantized 1x1 convolution against numpy: x̂ = s_x (q_x - z), ŵ = s_w q_w per channel, y = ŵ x̂ + b."""
    net = Net()
    hidden = net.relu(net.conv("images", 16, 1))
    inner = net.node("Conv", hidden, net.weights(16, 16, 1, 1), net.vector(-0.5, 0.5, 16), channels=16)
    model = fold(net.model(net.gemm(net.pool(inner), 4)))
    stem, middle = (node for node in model.graph.node if node.op_type == "Conv")
    plan = make_plan(model, flavour)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale_x = 3.0 / 127 if flavour == "tensorrt" else 3.0 / 255
    ranges = {name: Range(-3.0 if flavour == "tensorrt" else 0.0, 3.0) for name in plan.tensors}
    scales = {layer.node: np.full(16, 0.01, np.float32) for layer in plan.layers}
    result = insert(model, plan, ranges, scales)
    x = images(2)
    at = {stem.input[0]: x}
    if flavour == "ort-x86":
        at[stem.input[0]] = np.clip(np.rint(x / scale_x), 0, 255) * scale_x
        weights[stem.input[1]] = np.clip(np.rint(weights[stem.input[1]] / 0.01), -127, 127) * 0.01
    relu = np.maximum(pointwise(weights[stem.input[1]], at[stem.input[0]]), 0)
    read = np.clip(np.rint(relu / scale_x), -128, 127 if flavour == "tensorrt" else 255) * scale_x
    integers = np.clip(np.rint(weights[middle.input[1]] / 0.01), -127, 127) * 0.01
    expected = pointwise(integers, read) + weights[middle.input[2]].reshape(1, 16, 1, 1)
    if flavour == "ort-x86":
        expected = np.clip(np.rint(expected / scale_x), 0, 255) * scale_x
    last = next(node for node in model.graph.node if node.op_type == "Gemm")
    expected = expected.mean(axis=(2, 3)) @ weights[last.input[1]].T + weights[last.input[2]]
    # A value on the edge between two integers may fall either way; each such step moves a mean of 256 by a 256th of it.
    np.testing.assert_allclose(run_onnx(result, x), expected, atol=4 * scale_x / 256)


def pointwise(weight: NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0].astype(np.float64), x)
    return result


def test_seven_bits_are_kept_for_a_cpu_without_vnni() -> None:
    for reduce_range, largest in [(False, 127), (True, 63)]:
        result = quantize_model(residual_net(), [images(16)], "ort-x86", "minmax", reduce_range, Remedies(False, False))
        integers = [numpy_helper.to_array(t) for t in result.model.graph.initializer if t.data_type == TensorProto.INT8]
        assert max(np.abs(values.astype(int)).max() for values in integers) == largest


def test_a_max_pool_has_one_scale_on_both_sides() -> None:
    graph = Topology(quantized(pooled_net, "ort-x86").model)
    pools = [node for node in graph.nodes if node.op_type == "MaxPool"]
    for node in pools:
        before, (after, _) = graph.producer[node.input[0]], graph.readers[node.output[0]][0]
        for slot in (1, 2):
            assert graph.constant(before.input[slot]) == graph.constant(after.input[slot])


def test_a_dead_channel_with_a_large_bias_does_not_overflow() -> None:
    net = Net()
    weight = net.random.standard_normal((8, 16, 3, 3)).astype(np.float32)
    weight[2] *= 1e-12  # what batch norm leaves of a channel that it has switched off
    x = net.relu(net.conv("images", 16, 3))
    x = net.node("Conv", x, net.constant(weight), net.vector(2, 3, 8), channels=8, pads=[1] * 4)
    model = net.model(net.gemm(net.pool(net.relu(x)), 4))
    result = quantize_model(model, [images(16)], "ort-x86", "mse")
    assert compare(run_onnx(model, images(8)), run_onnx(result.model, images(8))).cosine_min > 0.999


def test_the_model_given_is_left_as_it_was() -> None:
    model = residual_net()
    quantize_model(model, [images(8)], "tensorrt")
    assert model == residual_net()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_quantized_model_is_not_quantized_again(flavour: Flavour) -> None:
    with pytest.raises(UserError, match="quantized already"):
        quantize_model(quantized(residual_net, flavour).model, [images(8)], flavour)


def test_a_missing_range_is_named() -> None:
    model = fold(residual_net())
    plan = make_plan(model, "tensorrt")
    with pytest.raises(UserError, match=plan.tensors[0]):
        insert(model, plan, {}, {})


def test_calibration_faults_come_through() -> None:
    with pytest.raises(UserError, match="no calibration images"):
        quantize_model(residual_net(), [], "tensorrt")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_calibrated_once_any_choice_of_layers_can_be_quantized(flavour: Flavour) -> None:
    calibrated = calibrate_model(residual_net(), [images(16)], flavour, for_any=True)
    layers = [layer.node for layer in calibrated.plan().layers]
    fewer = calibrated.quantized({layers[1]: "it was asked for"})
    assert fewer.coverage.layers == len(layers) - 1
    assert fewer.kept[layers[1]] == "it was asked for"
    assert fewer.calibrator == calibrated.calibrator


def test_a_model_of_a_fixed_batch_holds_out_whole_batches() -> None:
    net = Net()
    model = net.model(net.gemm(net.pool(net.relu(net.conv(net.conv("images", 16, 3), 16, 3))), 4), batch=4)
    result = quantize_model(model, np.split(images(32), 4), "tensorrt")
    assert (result.images, result.held_out) == (32, 8)


def test_layers_are_kept_in_float_by_name_and_a_name_that_is_none_is_refused() -> None:
    model = fold(NETS["residual"]())
    weight = [node.input[1] for node in model.graph.node if node.op_type == "Conv"][-1]
    remedies = Remedies(keep=(f"{weight[:-1]}?",))
    kept = quantize_model(model, [images(8)], "tensorrt", "minmax", remedies=remedies).kept
    assert "the settings keep it" in kept.values()
    with pytest.raises(UserError, match="No layer is called 'stem'"):
        quantize_model(model, [images(8)], "tensorrt", remedies=Remedies(keep=("stem",)))
