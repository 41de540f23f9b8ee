"""Where Q/DQ goes: the rules of each flavour, on nets small enough to say the answer by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.placement import Plan, make_plan
from kd2edge.graph.topology import Topology, attribute
from kd2edge.schema import Flavour
from tests.graphs import NETS, SIZE, Net, face_net, pooled_net, residual_net, simkd_net

FLAVOURS: list[Flavour] = ["tensorrt", "ort-x86"]


def planned(make: Callable[[], ModelProto], flavour: Flavour) -> tuple[Topology, Plan]:
    model = fold(make())
    return Topology(model), make_plan(model, flavour)


def readers(graph: Topology, plan: Plan) -> set[tuple[str, str]]:
    """Operator that makes the tensor ("" for the image), operator that reads it quantized."""
    kinds = {node.name: node.op_type for node in graph.nodes}
    made = {name: node.op_type for name, node in graph.producer.items()}
    return {(made.get(site.tensor, ""), kinds[name]) for site in plan.sites for name, _ in site.readers}


def test_tensorrt_quantizes_the_skip_branch_of_an_add_and_not_the_convolution() -> None:
    graph, plan = planned(residual_net, "tensorrt")
    quantized = {(name, slot) for site in plan.sites for name, slot in site.readers}
    for add in (node for node in graph.nodes if node.op_type == "Add"):
        skips = [graph.producer[name] for slot, name in enumerate(add.input) if (add.name, slot) in quantized]
        assert len(skips) == 1
        # The identity block's skip is a ReLU; of two convolutions, the shortcut's is the 1x1 one.
        assert skips[0].op_type == "Relu" or list(graph.initializers[skips[0].input[1]].dims[2:]) == [1, 1]


def test_ort_quantizes_both_inputs_and_the_output_of_an_add() -> None:
    graph, plan = planned(residual_net, "ort-x86")
    sites = {site.tensor for site in plan.sites}
    for add in (node for node in graph.nodes if node.op_type == "Add"):
        relu = graph.only_reader(add.output[0])
        assert relu is not None
        assert {*add.input, relu.output[0]} <= sites
        assert add.output[0] not in sites


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_nothing_sits_between_a_layer_and_its_relu(flavour: Flavour) -> None:
    for make in (residual_net, pooled_net, simkd_net):
        assert not {pair for pair in readers(*planned(make, flavour)) if pair[1] == "Relu"}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", NETS)
def test_a_site_has_readers_and_every_layer_a_quantized_input(name: str, flavour: Flavour) -> None:
    graph, plan = planned(NETS[name], flavour)
    fed = {reader for site in plan.sites for reader in site.readers}
    assert all(site.readers for site in plan.sites)
    assert {(layer.node, 0) for layer in plan.layers} <= fed
    for site in plan.sites:
        assert all((node, slot) in {(n.name, s) for n, s in graph.readers[site.tensor]} for node, slot in site.readers)


def test_pads_constant_is_never_quantized() -> None:
    for flavour in FLAVOURS:
        graph, plan = planned(lambda: residual_net("pad"), flavour)
        pads = {node.name for node in graph.nodes if node.op_type == "Pad"}
        assert pads
        assert not [slot for site in plan.sites for name, slot in site.readers if name in pads and slot > 0]


def test_tensorrt_leaves_prelu_in_float_and_quantizes_depthwise_layers_behind_it() -> None:
    graph, plan = planned(face_net, "tensorrt")
    assert not {pair for pair in readers(graph, plan) if pair[1] == "PRelu"}
    groups = {node.name: attribute(node, "group", 1) for node in graph.nodes}
    assert sum(groups[layer.node] > 1 for layer in plan.layers) == 2


def test_what_surrounds_a_global_depthwise_convolution_stays_in_float() -> None:
    for flavour in FLAVOURS:
        graph, plan = planned(face_net, flavour)
        kernels = {
            node.name: list(graph.initializers[node.input[1]].dims) for node in graph.nodes if node.op_type == "Conv"
        }
        widest = next(name for name, dims in kernels.items() if dims[2] == SIZE // 2)
        assert plan.kept[widest] == "it is a global depthwise convolution"
        node = next(node for node in graph.nodes if node.name == widest)
        before = graph.producer[graph.producer[node.input[0]].input[0]]
        sites = {site.tensor for site in plan.sites}
        assert not {node.input[0], before.output[0]} & sites
        assert (before.name in plan.kept) == (flavour == "ort-x86")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", NETS)
def test_the_layer_that_makes_the_output_stays_in_float(name: str, flavour: Flavour) -> None:
    graph, plan = planned(NETS[name], flavour)
    last = [node for node in graph.nodes if node.op_type == "Gemm"][-1]
    assert plan.kept[last.name] == "it produces the output"


def test_tensorrt_leaves_a_stem_of_three_channels_in_float() -> None:
    _, plan = planned(residual_net, "tensorrt")
    assert "it has few channels" in plan.kept.values()
    assert "images" not in {site.tensor for site in plan.sites}
    _, plan = planned(residual_net, "ort-x86")
    assert "images" in {site.tensor for site in plan.sites}


def test_a_hidden_gemm_is_quantized() -> None:
    for flavour in FLAVOURS:
        graph, plan = planned(pooled_net, flavour)
        gemms = [node.name for node in graph.nodes if node.op_type == "Gemm"]
        assert [name in {layer.node for layer in plan.layers} for name in gemms] == [True, False]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_max_pool_passes_its_range_on(flavour: Flavour) -> None:
    graph, plan = planned(pooled_net, flavour)
    pooled = [site for site in plan.sites if graph.producer.get(site.tensor, graph.nodes[0]).op_type == "MaxPool"]
    assert len(pooled) == 2
    for site in pooled:
        assert site.ranged_as == graph.producer[site.tensor].input[0]
    assert not {site.tensor for site in pooled} & set(plan.tensors)


def test_coverage_counts_layers_and_macs() -> None:
    """By hand: 16x16 maps, then 8x8; output pixels x outputs x inputs x kernel area."""
    stem, block, down = 256 * 16 * 3 * 9, 2 * 256 * 16 * 16 * 9, 64 * 32 * (16 * 9 + 32 * 9 + 16)
    total = stem + block + down + 32 * 10
    for flavour, macs, layers in [("tensorrt", total - stem - 320, 5), ("ort-x86", total - 320, 6)]:
        coverage = planned(residual_net, flavour)[1].coverage  # type: ignore[arg-type]
        assert (coverage.layers, coverage.all_layers) == (layers, 7)
        assert (coverage.macs, coverage.all_macs) == (macs, total)


def test_weights_go_along_their_output_channels() -> None:
    for make in NETS.values():
        graph, plan = planned(make, "tensorrt")
        for layer in plan.layers:
            node = next(node for node in graph.nodes if node.name == layer.node)
            assert graph.initializers[layer.weight].dims[layer.axis] == graph.initializers[node.input[2]].dims[0]


def test_a_model_with_nothing_to_quantize_is_refused_with_the_reasons() -> None:
    net = Net()
    model = fold(net.model(net.pool(net.conv("images", 8, 3))))
    with pytest.raises(UserError, match="No layer") as caught:
        make_plan(model, "tensorrt")
    assert "it produces the output" in str(caught.value)


def test_a_transposed_convolution_is_left_to_tensorrt() -> None:
    net = Net()
    x = net.relu(net.conv("images", 16, 3))
    x = net.relu(net.node("ConvTranspose", x, net.weights(16, 16, 2, 2), channels=16, strides=[2, 2]))
    model = fold(net.model(net.gemm(net.pool(x), 4)))
    assert {layer.axis for layer in make_plan(model, "tensorrt").layers} == {1}
    assert "ort-x86 quantizes Conv, Gemm only" in make_plan(model, "ort-x86").kept.values()


def test_an_add_before_a_global_depthwise_convolution_is_not_quantized_behind() -> None:
    net = Net()
    x = net.relu(net.conv("images", 16, 3))
    added = net.node("Add", net.conv(x, 16, 3), x)
    last = net.conv(net.prelu(added), 16, SIZE, group=16, pad=0)
    model = fold(net.model(net.gemm(net.node("Flatten", last), 4)))
    assert added not in {site.tensor for site in make_plan(model, "ort-x86").sites}


def in_other_floats(model: ModelProto, dtype: str) -> ModelProto:
    """`model` with its constants in another type of float, and a Cast behind its input and before its output."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    nodes, output = list(model.graph.node), model.graph.output[0].name
    for node in nodes:
        node.input[:] = ["given" if name == "images" else name for name in node.input]
        node.output[:] = ["made" if name == output else name for name in node.output]
    del model.graph.node[:]
    first = helper.make_node("Cast", ["images"], ["given"], "first", to=kind)
    last = helper.make_node("Cast", ["made"], [output], "last", to=TensorProto.FLOAT)
    model.graph.node.extend([first, *nodes, last])
    return model


@pytest.mark.parametrize(("dtype", "told"), [("float16", "float16"), ("float64", "double")])
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "batch-norms"])
def test_a_model_of_other_floats_is_refused_also_where_folding_makes_its_weights_float32(
    normed: bool, dtype: str, told: str
) -> None:
    net = Net(seed=2)
    x = net.conv("images", 16, 3)
    x = net.relu(net.norm(x) if normed else x)
    x = net.conv(x, 16, 3)
    model = in_other_floats(net.model(net.gemm(net.pool(net.norm(x) if normed else x), 5)), dtype)
    for flavour in FLAVOURS:
        with pytest.raises(UserError, match=f"weights are {told}, not float32") as raised:
            make_plan(fold(model), flavour)
        assert raised.value.hint == "give the FP32 model it was made from"
