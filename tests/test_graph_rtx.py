"""NVIDIA's own parser and builder (TensorRT for RTX, no GPU needed) accept what the bridge writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from kd2edge import shelves
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.fold import fold
from kd2edge.graph.load import load_model
from kd2edge.graph.quantize import quantize_model
from kd2edge.schema import NetSpec
from tests.graphs import NETS, SIZE, images

trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

SHELF = [name for name in shelves.names(shelves.MODELS) if name not in ("onnx", "torchvision", "timm")]


def build(model: ModelProto, size: int = SIZE) -> int:
    """Size in bytes of an engine for batches of 1 to 8; fails with what the parser says."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape(model.graph.input[0].name, *[(batch, 3, size, size) for batch in (1, 4, 8)])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return int(engine.nbytes)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_every_net_builds_at_every_precision(name: str, precision: str) -> None:
    model = NETS[name]()
    if precision.startswith("int8"):
        model = quantize_model(model, [images(16)], "tensorrt").model
    model = to_fp16(model, [images(8)]) if precision.endswith("fp16") else fold(model)
    assert build(model) > 0


@pytest.mark.kd
@pytest.mark.parametrize("name", SHELF)
def test_int8_of_every_net_on_the_shelf_builds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kd2edge.kd import net, to_onnx

    if name.startswith("shufflenet"):
        monkeypatch.setattr(f"kd2edge.kd.models.{name}.REPEATS", (2, 2, 2))  # every kind of unit, in half the time
    plugin = shelves.load(shelves.MODELS, name, net.Backbone)
    slim = {"multiplier": 0.25} if "multiplier" in plugin.Config.model_fields else {}
    spec = NetSpec.model_validate({"model": {"name": name, **slim}})
    made = net.build(spec, net.Shape(3, (32, 32), 10)).eval()
    x = images(16, size=32)
    to_onnx.export(made, "logits", x[:2], tmp_path / "net.onnx")
    result = quantize_model(load_model(tmp_path / "net.onnx"), np.split(x, 2), "tensorrt", "minmax")
    assert result.coverage.layers > 1
    assert build(result.model, 32) > 0
