"""The audit of quantizers: calibrated ranges are filled, a scale four times too large shows, a float graph has none."""

import numpy as np
import pytest
from onnx import numpy_helper

from kd2edge.graph.audit import range_used
from kd2edge.graph.quantize import quantize_model
from kd2edge.schema import Flavour
from tests.graphs import SIZE, residual_net

FLAVOURS: list[Flavour] = ["tensorrt", "ort-x86"]


def images(seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 1, (8, 3, SIZE, SIZE)).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_calibrated_ranges_are_filled(flavour: Flavour) -> None:
    used = range_used(quantize_model(residual_net(), images(), flavour).model, images(1))
    assert used
    assert min(used.values()) > 0.7


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_scale_four_times_too_large_leaves_integers_unused(flavour: Flavour) -> None:
    model = quantize_model(residual_net(), images(), flavour).model
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    before = range_used(model, images(1))[node.input[0]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(4), scale.name))
    after = range_used(model, images(1))[node.input[0]]
    assert after < 0.6 < before


def test_a_float_graph_has_no_integers() -> None:
    assert range_used(residual_net(), images()) == {}
