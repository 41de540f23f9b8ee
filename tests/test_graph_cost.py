"""Parameters and MACs, counted by hand."""

import pytest
from onnx import helper

from kd2edge.errors import UserError
from kd2edge.graph.cost import layer_macs, macs, parameters
from kd2edge.graph.fold import fold
from kd2edge.graph.quantize import quantize_model
from tests.graphs import Net, images, pooled_net, residual_net


def test_macs_of_each_kind_of_layer() -> None:
    net = Net()
    x = net.conv("images", 8, 3)  # 16x16 pixels x 8 x 3 x 9
    x = net.conv(x, 8, 3, stride=2, group=8)  # 8x8 x 8 x 1 x 9
    x = net.node("ConvTranspose", x, net.weights(8, 4, 2, 2), channels=4, strides=[2, 2])  # 8x8 x 8 in x 4 out x 4
    x = net.node("MatMul", net.pool(x), net.weights(4, 6), channels=6)
    counts = layer_macs(net.model(net.gemm(x, 10)))
    assert list(counts.values()) == [256 * 8 * 3 * 9, 64 * 8 * 9, 64 * 8 * 4 * 4, 4 * 6, 6 * 10]


def test_macs_are_of_one_image_whatever_the_batch() -> None:
    model = pooled_net()
    fixed = pooled_net()
    for value in [*fixed.graph.input, *fixed.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert macs(model) == macs(fixed) == 256 * 16 * 27 + 64 * 32 * 144 + 16 * 32 * 288 + 32 * 24 + 24 * 10


def test_parameters_are_weights_and_biases() -> None:
    convolutions = 16 * 27 + 2 * 16 * 144 + 32 * 144 + 32 * 288 + 32 * 16
    biases = 16 + 16 + 16 + 32 + 32 + 32
    assert parameters(fold(residual_net())) == convolutions + biases + 10 * 32 + 10


def test_padding_widths_and_scalars_are_no_parameters() -> None:
    shortcut = 32 * 16 + 32
    assert parameters(fold(residual_net("pad"))) == parameters(fold(residual_net())) - shortcut


def test_quantization_changes_neither_parameters_nor_macs() -> None:
    model = fold(residual_net())
    for flavour in ("tensorrt", "ort-x86"):
        result = quantize_model(model, [images(8)], flavour).model
        assert parameters(result) == parameters(model)
        assert macs(result) == macs(model)


def test_a_shape_that_cannot_be_known_is_told() -> None:
    model = pooled_net()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(1, None))
    with pytest.raises(UserError, match="cannot be inferred"):
        macs(model)
