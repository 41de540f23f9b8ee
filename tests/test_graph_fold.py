"""Folding: the same numbers from fewer nodes."""

from collections import Counter

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from kd2edge.graph.fold import fold
from kd2edge.graph.run import run_onnx
from tests.graphs import NETS, SIZE, Net, images, residual_net


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("name", NETS)
def test_a_folded_net_computes_the_same_without_batch_norms(name: str) -> None:
    model = NETS[name]()
    folded = fold(model)
    assert operators(folded)["BatchNormalization"] == operators(folded)["MatMul"] == 0
    expected = run_onnx(model, images(4))
    np.testing.assert_allclose(run_onnx(folded, images(4)), expected, atol=1e-5 * np.abs(expected).max())


def test_the_model_given_is_left_as_it_was() -> None:
    model, untouched = residual_net(), residual_net()
    fold(model)
    assert model == untouched


def test_folding_is_the_textbook_formula() -> None:
    """y = γ (w x + b - μ) / √(σ² + ε) + β with w = 2, b = 1, μ = 3, σ² = 4 - ε, γ = 5, β = 6: y = 5 x + 1."""
    net = Net()
    values = [5.0, 6.0, 3.0, 4.0 - 1e-3]
    kernel = net.constant(np.array([2, 0, 0], dtype=np.float32).reshape(1, 3, 1, 1))
    x = net.node("Conv", "images", kernel, net.constant(np.ones(1, np.float32)), channels=1)
    parameters = [net.constant(np.array([v], np.float32)) for v in values]
    x = net.node("Flatten", net.node("BatchNormalization", x, *parameters, epsilon=1e-3))
    net.channels[x] = SIZE * SIZE
    folded = fold(net.model(x))
    weight, bias = (numpy_helper.to_array(tensor) for tensor in folded.graph.initializer)
    np.testing.assert_allclose(weight.ravel(), [5, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(bias, [1], rtol=1e-6)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_transposed_convolution_takes_its_norm_in(group: int) -> None:
    net = Net()
    x = net.conv("images", 8, 3)
    x = net.node("ConvTranspose", x, net.weights(8, 12 // group, 2, 2), channels=12, strides=[2, 2], group=group)
    model = net.model(net.pool(net.norm(x)))
    folded = fold(model)
    assert operators(folded)["BatchNormalization"] == 0
    np.testing.assert_allclose(run_onnx(folded, images(2)), run_onnx(model, images(2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_takes_its_norm_in(transposed: int) -> None:
    net = Net()
    x = net.pool(net.conv("images", 8, 3))
    weight = net.weights(12, 8) if transposed else net.weights(8, 12)
    model = net.model(net.norm(net.node("Gemm", x, weight, channels=12, transB=transposed)))
    folded = fold(model)
    assert operators(folded)["BatchNormalization"] == 0
    np.testing.assert_allclose(run_onnx(folded, images(2)), run_onnx(model, images(2)), rtol=1e-4, atol=1e-5)


def test_a_convolution_that_is_read_twice_keeps_its_norm_apart() -> None:
    net = Net()
    x = net.conv("images", 8, 3)
    model = net.model(net.pool(net.node("Add", x, net.norm(x))))
    assert operators(fold(model))["BatchNormalization"] == 1


def test_tied_weights_are_folded_apart() -> None:
    net = Net()
    x = net.conv("images", 3, 3)
    first = net.norm(x)
    net.channels[first] = 3
    again = net.node("Conv", first, net.nodes[0].input[1], pads=[1] * 4)
    model = net.model(net.pool(net.norm(again)))
    np.testing.assert_allclose(run_onnx(fold(model), images(2)), run_onnx(model, images(2)), rtol=1e-4, atol=1e-5)


def test_what_does_not_depend_on_the_image_becomes_an_initializer() -> None:
    net = Net()
    half = net.node("Constant", value_floats=[0.5] * 8)
    slope = net.node("Reshape", net.node("Mul", half, half), net.constant(np.array([8, 1, 1], dtype=np.int64)))
    x = net.node("PRelu", net.conv("images", 8, 3), slope)
    model = net.model(net.pool(net.node("Dropout", net.node("Identity", x))))
    folded = fold(model)
    assert operators(folded) == Counter(["Conv", "PRelu", "GlobalAveragePool", "Flatten"])
    np.testing.assert_array_equal(run_onnx(folded, images(2)), run_onnx(model, images(2)))


def test_an_identity_before_the_output_keeps_the_outputs_name() -> None:
    net = Net()
    x = net.node("Identity", net.pool(net.conv("images", 8, 3)))
    folded = fold(net.model(x))
    assert operators(folded)["Identity"] == 0
    assert [value.name for value in folded.graph.output] == [x]
    assert folded.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
