"""On a machine with an NVIDIA GPU: engines of FP32, FP16 and INT8 graphs compute what onnxruntime computes."""

from pathlib import Path

import pytest

from kd2edge import drawers
from kd2edge.edge.session import open_backend
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import compare, run_onnx
from kd2edge.graph.quantize import quantize_model
from kd2edge.verbs.engines import build_engine, run_engine
from kd2edge.verbs.models import open_model
from tests import graphs

LEAST_COSINE = {"fp32": 0.999, "fp16": 0.999, "int8": 0.99}


@pytest.mark.parametrize("precision", list(LEAST_COSINE))
@pytest.mark.parametrize("name", ["nvidia-dgpu", "nvidia-rtx"])
def test_an_engine_computes_what_onnxruntime_computes(name: str, precision: str, tmp_path: Path) -> None:
    target = drawers.read_target(name).model_copy(update={"compute_capabilities": ()})  # the GPU that is here
    backend = open_backend(target.backend)
    reason = backend.available()
    if reason is not None:
        pytest.skip(reason)
    model, images = graphs.residual_net(), graphs.images(40)
    if precision == "fp16":
        model = to_fp16(model, [images])
    elif precision == "int8":
        model = quantize_model(model, [images], "tensorrt").model
    path = tmp_path / f"{precision}.onnx"
    save_model(model, path)
    source = open_model(path, "zero-one", lambda sentence: None)
    engine = build_engine(source, name, target, backend, images, lambda sentence: None)
    parity = compare(run_onnx(path, images), run_engine(engine, images))
    assert parity.cosine_mean >= LEAST_COSINE[precision]
