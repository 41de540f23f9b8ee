"""The audit of quantizers: calibrated ranges are filled, a scale four times too large shows, a float graph has none."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from kd2edge.graph.audit import range_used
from kd2edge.graph.load import load_model
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


class Feeder(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime's tools are not typed
    def __init__(self) -> None:
        self.batches = iter(images())

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def test_a_file_of_another_tool_is_audited_too(tmp_path: Path) -> None:
    """onnxruntime's own quantizer, with its defaults, and the same file with its scales in Constant nodes."""
    onnx.save(residual_net(), tmp_path / "net.onnx")
    name = residual_net().graph.input[0].name
    assert name == "images"
    quantize_static(tmp_path / "net.onnx", tmp_path / "int8.onnx", Feeder())
    model = load_model(tmp_path / "int8.onnx")
    used = range_used(model, images(1))
    assert used
    assert min(used.values()) > 0.6
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    moved = TensorProto()
    moved.CopyFrom(scale)
    model.graph.initializer.remove(scale)
    model.graph.node.insert(0, helper.make_node("Constant", [], [moved.name], value=moved))
    assert range_used(model, images(1)) == used


def test_a_scale_that_is_computed_or_per_channel_is_passed_over() -> None:
    model = quantize_model(residual_net(), images(), "ort-x86").model
    before = range_used(model, images(1))
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    model.graph.node.insert(0, helper.make_node("Identity", [scale.name], ["computed"]))
    node.input[1] = "computed"
    assert set(before) - set(range_used(model, images(1))) == {node.input[0]}
