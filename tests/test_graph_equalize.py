"""Equalization: exact in float for any net, and it mends the collapse that outlier channels make."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from kd2edge.graph.calibrate import observe
from kd2edge.graph.equalize import DEAD, equalize, gains, pairs
from kd2edge.graph.fold import fold
from kd2edge.graph.histogram import ChannelMaxima
from kd2edge.graph.parity import compare
from kd2edge.graph.quantize import Remedies, quantize_model
from kd2edge.graph.run import run_onnx
from kd2edge.graph.topology import Topology, attribute
from kd2edge.schema import Flavour
from tests.graphs import NETS, Net, face_net, images, outlier_net

KINDS = ("relu", "prelu", "leaky", "none")
FLAVOURS: list[Flavour] = ["tensorrt", "ort-x86"]
LAYERS = ("dense", "depthwise", "grouped")


def activated(net: Net, x: str, kind: str) -> str:
    if kind == "leaky":
        return net.node("LeakyRelu", x, alpha=0.1)
    if kind == "none":
        return x
    return net.relu(x) if kind == "relu" else net.prelu(x)


@st.composite
def chains(draw: st.DrawFn) -> ModelProto:
    """Convolutions with activations between, channels of sizes that differ by up to a thousand, some of them dead."""
    net = Net(seed=draw(st.integers(0, 999)))
    x = spread(net, net.conv("images", 16, 3), draw)
    for _ in range(draw(st.integers(1, 3))):
        x = activated(net, x, draw(st.sampled_from(KINDS)))
        group = {"dense": 1, "depthwise": 16, "grouped": 4}[draw(st.sampled_from(LAYERS))]
        x = spread(net, net.conv(x, 16, 3, group=group), draw)
    return fold(net.model(net.gemm(net.pool(x), 4)))


def spread(net: Net, x: str, draw: st.DrawFn) -> str:
    """A batch norm whose gains make channels unlike, or switch one off."""
    gain = np.exp2(net.random.uniform(-9, 1, 16)).astype(np.float32)
    gain[draw(st.integers(0, 15))] = draw(st.sampled_from([0.0, 1.0, 1e-12]))
    shift = np.where(gain > 0, net.random.uniform(-0.1, 0.1, 16), 0).astype(np.float32)
    rest = [net.vector(-0.2, 0.2, 16), net.vector(0.5, 2, 16)]
    return net.node("BatchNormalization", x, net.constant(gain), net.constant(shift), *rest)


@given(chains(), st.sampled_from(FLAVOURS))
@settings(deadline=None, max_examples=20)
def test_the_float_output_does_not_change_by_a_bit_and_a_second_time_changes_nothing(
    model: ModelProto, flavour: Flavour
) -> None:
    x = images(4)
    equal = equalize(model, lambda: [x], flavour)
    np.testing.assert_array_equal(run_onnx(equal, x), run_onnx(model, x))
    np.testing.assert_array_equal(run_onnx(equal, images(4, seed=1)), run_onnx(model, images(4, seed=1)))
    again = equalize(equal, lambda: [x], flavour)
    assert again.graph.initializer == equal.graph.initializer


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_gains_are_bounded_powers_of_two_that_leave_nothing_to_do(sizes: list[float]) -> None:
    largest = np.array(sizes)
    gain = gains(largest).astype(np.float64)
    assert (np.log2(gain) == np.round(np.log2(gain))).all()
    assert gain.max() / gain.min() <= DEAD
    assert (gains(largest * gain) == 1).all()


def test_gains_bring_channels_within_a_factor_of_two() -> None:
    largest = np.array([100.0, 1.0, 0.3, 7.0, 0.0, 0.001])
    gain = gains(largest)
    equal = (largest * gain)[:4]
    assert equal.max() < 2 * equal.min() * (1 + 1e-6)
    assert gain[4] == gain[5] == gain[0]  # dead channels go with the largest


@pytest.mark.parametrize(("make", "count"), [(face_net, 3), (NETS["outlier"], 1), (NETS["residual"], 0)])
def test_pairs_are_found_by_what_lies_between(make: Callable[[], ModelProto], count: int) -> None:
    found = pairs(fold(make()))
    assert len(found) == count
    graph = Topology(fold(make()))
    for pair in found:
        assert all(graph.only_reader(name) is not None for name in pair.tensors)
        assert graph.producer[pair.tensors[0]].name == pair.first
        assert {node.name: attribute(node, "group", 1) for node in graph.nodes}[pair.second] > 1


def test_clip_and_a_tensor_of_two_readers_end_a_pair() -> None:
    net = Net()
    bounds = [net.constant(np.float32(0)), net.constant(np.float32(6))]
    x = net.conv(net.node("Clip", net.conv("images", 16, 3), *bounds), 16, 3, group=16)
    x = net.conv(x, 16, 3)
    x = net.node("Add", net.conv(x, 16, 3, group=16), x)
    model = fold(net.model(net.gemm(net.pool(x), 4)))
    assert pairs(model) == []
    assert equalize(model, lambda: [images(2)], "tensorrt") == model


def test_a_weight_that_two_layers_share_is_rescaled_for_one() -> None:
    net = Net()
    shared = net.weights(16, 1, 3, 3)
    gain = np.exp2(np.linspace(0, 6, 16)).astype(np.float32).reshape(16, 1, 1, 1)
    first = net.constant(gain * net.random.standard_normal((16, 3, 1, 1)).astype(np.float32))
    x = net.relu(net.node("Conv", "images", first, channels=16))
    for _ in range(2):
        x = net.relu(net.node("Conv", x, shared, channels=16, group=16, pads=[1] * 4))
    model = fold(net.model(net.gemm(net.pool(x), 4)))
    equal = equalize(model, lambda: [images(4)], "ort-x86")
    assert len({node.input[1] for node in equal.graph.node if attribute(node, "group", 1) == 16}) == 2
    np.testing.assert_array_equal(run_onnx(equal, images(4)), run_onnx(model, images(4)))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_depthwise_layer_sees_channels_of_one_size(flavour: Flavour) -> None:
    model = fold(outlier_net())
    pair = pairs(model)[-1]
    ratios = []
    for net in (model, equalize(model, lambda: [images(16)], flavour)):
        seen = ChannelMaxima()
        observe(net, {pair.tensors[-1]: seen}, [images(16)])
        ratios.append(seen.magnitudes.max() / np.median(seen.magnitudes))
    assert ratios[0] > 50
    assert ratios[1] < 4


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_outlier_channels_no_longer_ruin_the_output(flavour: Flavour) -> None:
    model, unseen = outlier_net(), images(32, seed=99)
    expected = run_onnx(model, unseen)
    cosines = []
    for on in (False, True):
        made = quantize_model(model, [images(64)], flavour, "minmax", remedies=Remedies(on, False))
        cosines.append(compare(expected, run_onnx(made.model, unseen)).cosine_mean)
    assert cosines[0] < 0.97
    assert cosines[1] > 0.99
