"""NVIDIA's own parser and builder (TensorRT for RTX, no GPU needed) accept what the bridge writes."""

from typing import Any

import pytest
from onnx import ModelProto

from kd2edge.graph.cast import to_fp16
from kd2edge.graph.fold import fold
from kd2edge.graph.quantize import quantize_model
from tests.graphs import NETS, SIZE, images

trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


def build(model: ModelProto) -> int:
    """Size in bytes of an engine for batches of 1 to 8; fails with what the parser says."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(batch, 3, SIZE, SIZE) for batch in (1, 4, 8)])
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
