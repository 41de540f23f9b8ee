"""Bias correction: on layers whose answer can be said by hand, and on the output of a net with coarse weights."""

import numpy as np
import pytest
from onnx import ModelProto

from kd2edge.graph.bias import correct_bias
from kd2edge.graph.calibrate import collect
from kd2edge.graph.fold import fold
from kd2edge.graph.insert import insert
from kd2edge.graph.placement import Plan, make_plan
from kd2edge.graph.run import run_onnx
from kd2edge.graph.scales import Range, Scales, weight_scales
from kd2edge.graph.topology import Array, Topology
from tests.graphs import Net, images, pooled_net

COARSE = 3  # bits: integers from -3 to 3, and errors that nobody misses


def coarse_scales(model: ModelProto, plan: Plan) -> Scales:
    graph = Topology(model)
    return {i.node: weight_scales(graph.constant(i.weight), i.axis, "minmax", COARSE) for i in plan.layers}


def rounded(weight: Array, scales: Array) -> Array:
    """The weights [outputs, inputs] as three bits hold them."""
    return np.asarray(np.clip(np.rint(weight / scales[:, None]), -3, 3) * scales[:, None].astype(np.float64))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_mean_output_of_a_layer_is_what_it_was_in_float(group: int, with_bias: bool) -> None:
    """Means go through a 1x1 convolution as values do: E[y] = W E[x] + b, and Ŵ E[x] + b̂ must be the same."""
    net = Net()
    hidden = net.conv("images", 16, 1)
    bias = [net.vector(-1, 1, 32)] if with_bias else []
    layer = net.node("Conv", hidden, net.weights(32, 16 // group, 1, 1), *bias, channels=32, group=group)
    model = fold(net.model(net.gemm(net.pool(net.relu(layer)), 4)))
    plan, graph = make_plan(model, "ort-x86"), Topology(model)
    node, scales = graph.producer[layer], coarse_scales(model, plan)
    means: dict[str, Array] = {"images": np.ones(3), hidden: np.linspace(-1, 2, 16)}
    corrected = Topology(correct_bias(model, plan, scales, means, COARSE))
    weight = graph.constant(node.input[1])[:, :, 0, 0]
    old = graph.constant(node.input[2]) if with_bias else np.zeros(32)
    new = corrected.constant(corrected.producer[layer].input[2])
    given = means[hidden].reshape(group, -1).repeat(32 // group, axis=0)  # what each output channel reads
    before = (weight * given).sum(axis=1) + old
    after = (rounded(weight, scales[node.name]) * given).sum(axis=1) + new
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert np.abs(new - old).max() > 0.01


@pytest.mark.parametrize("transposed", [True, False])
def test_a_gemm_is_corrected_whichever_way_its_weight_lies(transposed: bool) -> None:
    net = Net()
    pooled = net.pool(net.conv("images", 16, 1))
    weight = net.random.standard_normal((8, 16)).astype(np.float32)
    stored = net.constant(weight if transposed else np.ascontiguousarray(weight.T))
    hidden = net.node("Gemm", pooled, stored, channels=8, transB=int(transposed))
    model = fold(net.model(net.gemm(net.relu(hidden), 4)))
    plan = make_plan(model, "ort-x86")
    scales = coarse_scales(model, plan)
    means: dict[str, Array] = {"images": np.ones(3), pooled: np.linspace(-1, 2, 16)}
    corrected = Topology(correct_bias(model, plan, scales, means, COARSE))
    node = corrected.producer[hidden]
    after = rounded(weight, scales[node.name]) @ means[pooled] + corrected.constant(node.input[2])
    np.testing.assert_allclose(after, weight @ means[pooled], atol=1e-5)


def test_the_output_of_a_net_with_coarse_weights_comes_nearer() -> None:
    model, x = fold(pooled_net()), images(32)
    plan = make_plan(model, "tensorrt")
    read = [node.input[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    seen, _ = collect(model, [*plan.tensors, *read], [x])
    ranges = {name: Range(found.low, found.high) for name, found in seen.items()}
    scales = coarse_scales(model, plan)
    corrected = correct_bias(model, plan, scales, {name: seen[name].means for name in read}, COARSE)
    unseen = images(32, seed=99)
    expected = run_onnx(model, unseen)
    found = [run_onnx(insert(made, plan, ranges, scales, COARSE), unseen) for made in (model, corrected)]
    errors = [np.square(output - expected).sum() for output in found]
    assert errors[1] < 0.5 * errors[0]
    np.testing.assert_array_equal(run_onnx(model, unseen), expected)
