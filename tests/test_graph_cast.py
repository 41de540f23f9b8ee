"""FP16 graphs: float32 at the borders, half precision inside, and float32 again for what half precision cannot hold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.parity import compare, require
from kd2edge.graph.quantize import quantize_model
from kd2edge.graph.run import run_onnx
from kd2edge.graph.topology import Topology, element_types, opset
from tests.graphs import NETS, Net, face_net, images, residual_net


def halved(make: Callable[[], ModelProto]) -> ModelProto:
    return to_fp16(make(), [images(16)])


def precision(model: ModelProto, node: NodeProto) -> int:
    return element_types(model)[node.output[0]]


@pytest.mark.parametrize("name", NETS)
def test_a_half_precision_net_reaches_its_level(name: str) -> None:
    model = halved(NETS[name])
    require(compare(run_onnx(NETS[name](), images(16, seed=5)), run_onnx(model, images(16, seed=5))), "fp16")
    for value in [*model.graph.input, *model.graph.output]:
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert {precision(model, node) for node in layers} == {TensorProto.FLOAT16}
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 2


def test_half_precision_halves_the_file() -> None:
    assert halved(residual_net).ByteSize() < 0.6 * residual_net().ByteSize()


def test_a_norm_and_its_small_constant_stay_in_float32() -> None:
    model = halved(NETS["normalised"])
    kinds = {node.op_type: precision(model, node) for node in model.graph.node}
    assert kinds["ReduceL2"] == kinds["Clip"] == kinds["Div"] == TensorProto.FLOAT
    constants = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if not tensor.dims]
    assert np.float32(1e-12) in constants


def bright_net() -> ModelProto:
    """A convolution whose output passes 65504, scaled back by the next one."""
    net = Net()
    up, down = (net.random.standard_normal((16, i, 1, 1)).astype(np.float32) for i in (3, 16))
    x = net.relu(net.node("Conv", "images", net.constant(up * np.float32(3e4)), channels=16))
    x = net.node("Conv", x, net.constant(down / np.float32(3e4)), channels=16)
    return net.model(net.gemm(net.pool(net.relu(net.conv(x, 16, 3))), 4))


def test_what_would_overflow_stays_in_float32() -> None:
    model = halved(bright_net)
    convolutions = [precision(model, node) for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions == [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT16]
    result = run_onnx(model, images(8))
    assert np.isfinite(result).all()
    require(compare(run_onnx(bright_net(), images(8)), result), "fp16")


def test_a_weight_that_does_not_fit_keeps_its_layer_in_float32() -> None:
    model = residual_net()
    kernel = model.graph.initializer[0]
    values = numpy_helper.to_array(kernel).copy()
    values[0, 0, 0, 0] = 1e5
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    first = next(node for node in to_fp16(model, [images(8)]).graph.node if node.op_type == "Conv")
    assert "fp16" not in first.input[1]


def test_an_output_that_is_read_again_inside_is_given_out_in_float32() -> None:
    net = Net()
    x = net.pool(net.conv("images", 8, 3))
    model = net.model(x)
    net.node("Relu", x)
    model.graph.node.append(net.nodes[-1])
    assert run_onnx(to_fp16(model, [images(4)]), images(4)).dtype == np.float32


@pytest.mark.parametrize("make", [residual_net, face_net])
def test_an_int8_model_gets_half_precision_around_its_integers(make: Callable[[], ModelProto]) -> None:
    int8 = quantize_model(make(), [images(32)], "tensorrt").model
    mixed = to_fp16(int8, [images(8)])
    graph = Topology(mixed)
    assert opset(mixed) == 19
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert graph.initializers[node.input[1]].data_type == TensorProto.FLOAT16
            assert graph.initializers[node.input[2]].data_type == TensorProto.INT8
    unseen = images(16, seed=5)
    assert compare(run_onnx(int8, unseen), run_onnx(mixed, unseen)).cosine_mean > 0.99
    assert compare(run_onnx(make(), unseen), run_onnx(mixed, unseen)).cosine_mean > 0.995


def test_what_is_written_loads(tmp_path: Path) -> None:
    path = tmp_path / "fp16.onnx"
    save_model(halved(face_net), path)
    assert load_model(path).graph == halved(face_net).graph


def test_unusable_images_are_refused() -> None:
    with pytest.raises(UserError, match="no calibration images"):
        to_fp16(residual_net(), [])
