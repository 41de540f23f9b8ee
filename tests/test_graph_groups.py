"""Groups of layers: every layer in one, blocks together, names that people know."""

import pytest
from onnx import ModelProto

from kd2edge.graph.fold import fold
from kd2edge.graph.groups import Group, layer_groups
from kd2edge.graph.placement import make_plan
from kd2edge.graph.topology import COMPUTE
from tests import graphs


def layers_of(model: ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type in COMPUTE]


@pytest.mark.parametrize("name", graphs.NETS)
def test_every_layer_is_in_one_group_and_the_order_is_the_graphs(name: str) -> None:
    model = fold(graphs.NETS[name]())
    groups = layer_groups(model)
    layers = layers_of(model)
    found = [layer for group in groups for layer in group.layers]
    assert sorted(found) == sorted(layers)
    assert [group.layers[0] for group in groups] == sorted((g.layers[0] for g in groups), key=layers.index)
    assert all(list(group.layers) == sorted(group.layers, key=layers.index) for group in groups)
    assert len({group.name for group in groups}) == len(groups)
    planned = {layer.node for layer in make_plan(model, "ort-x86").layers}
    assert planned <= {*found}
    assert layer_groups(fold(graphs.NETS[name]())) == groups


def test_a_residual_block_is_a_group_with_the_convolution_of_its_shortcut() -> None:
    found = [group.layers for group in layer_groups(fold(graphs.residual_net()))]
    assert found == [("Conv_0",), ("Conv_3", "Conv_6"), ("Conv_10", "Conv_12", "Conv_15"), ("Gemm_21",)]


def test_a_bottleneck_is_a_group_with_a_shortcut_or_without() -> None:
    found = [group.layers for group in layer_groups(fold(graphs.face_net()))]
    assert found == [
        ("Conv_0",),
        ("Conv_3", "Conv_6"),  # depthwise convolution and linear projection behind the stem
        ("Conv_8", "Conv_11", "Conv_14"),
        ("Conv_17",),
        ("Conv_20",),
        ("MatMul_23",),
    ]


def test_an_inverted_bottleneck_that_halves_the_map_has_no_add_and_is_a_group() -> None:
    net = graphs.Net()
    x = net.relu(net.conv("images", 16, 3))
    inner = net.relu(net.conv(x, 48, 1))
    inner = net.relu(net.conv(inner, 48, 3, stride=2, group=48))
    x = net.conv(inner, 24, 1)
    inner = net.relu(net.conv(x, 72, 1))
    inner = net.relu(net.conv(inner, 72, 3, group=72))
    x = net.node("Add", x, net.conv(inner, 24, 1))
    model = fold(net.model(net.gemm(net.pool(x), 10)))
    assert [len(group.layers) for group in layer_groups(model)] == [1, 3, 3, 1]


def test_separable_convolutions_are_pairs() -> None:
    net = graphs.Net()
    x = net.relu(net.conv("images", 16, 3))
    for channels in (16, 32):
        x = net.relu(net.conv(net.relu(net.conv(x, net.channels[x], 3, group=net.channels[x])), channels, 1))
    model = fold(net.model(net.gemm(net.pool(x), 10)))
    assert [len(group.layers) for group in layer_groups(model)] == [1, 2, 2, 1]


def test_a_block_within_a_block_is_a_group_of_its_own() -> None:
    net = graphs.Net()
    x = net.relu(net.conv("images", 16, 3))
    inner = net.relu(net.conv(x, 16, 3))
    inner = net.node("Add", inner, net.conv(net.relu(net.conv(inner, 16, 3)), 16, 3))
    x = net.node("Add", x, net.conv(inner, 16, 3))
    groups = layer_groups(fold(net.model(net.gemm(net.pool(x), 10))))
    assert sorted(len(group.layers) for group in groups) == [1, 1, 2, 2]


def test_a_name_is_the_module_that_the_weights_come_from() -> None:
    model = graphs.residual_net()
    convolutions = [node for node in model.graph.node if node.op_type in COMPUTE]
    modules = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.skip", "layer2.0.conv1", "layer2.0.conv2", "head"]
    for node, module in zip(convolutions, modules, strict=True):
        initializer = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        initializer.name = node.input[1] = f"net.{module}.weight"
    assert [group.name for group in layer_groups(fold(model))] == ["stem", "layer1.0", "layer2.0", "head"]


def test_a_name_that_others_would_share_is_the_first_layers() -> None:
    model = graphs.residual_net()
    for node in model.graph.node:
        node.name = f"/net/{node.name}/{node.op_type}"
    assert layer_groups(fold(model))[1] == Group("/net/Conv_3/Conv", ("/net/Conv_3/Conv", "/net/Conv_6/Conv"))
