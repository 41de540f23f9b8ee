"""NVIDIA's own parser and builder accept what kd2edge exports: FP32, FP16 and INT8 of real nets become engines.

TensorRT for RTX builds without a GPU, so this proof runs wherever its package installs. It says nothing of speed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kd2edge import drawers
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.quantize import quantize_model
from kd2edge.kd import net, to_onnx
from kd2edge.kd.method import Lesson
from kd2edge.kd.methods.sim_kd import SimKD
from kd2edge.kd.tasks import Task
from kd2edge.schema import NetSpec, Target

pytestmark = pytest.mark.kd

BACKEND = open_backend("tensorrt_rtx")
SHAPE = net.Shape(channels=1, size=(32, 32), classes=40)
MARGIN = {"embedding": 64, "head": {"name": "arcface"}}


def resnet() -> net.Net:
    return build({"model": {"name": "resnet_cifar", "arch": "8"}, **MARGIN})


def resnet_classifier() -> net.Net:
    return build({"model": {"name": "resnet_cifar", "arch": "14", "shortcut": "option_a"}})


def mobilefacenet() -> net.Net:
    return build({"model": {"name": "mobilefacenet", "multiplier": 0.5}, "neck": "gdc", **MARGIN})


def mobilefacenet_relu() -> net.Net:
    return build({"model": {"name": "mobilefacenet", "multiplier": 0.5, "activation": "relu"}, "neck": "gdc", **MARGIN})


def sim_kd_student() -> net.Net:
    teacher = build({"model": {"name": "resnet_cifar", "arch": "8", "widths": [16, 32, 96]}, **MARGIN})
    student = NetSpec.model_validate({"model": {"name": "resnet_cifar", "arch": "8"}, **MARGIN})
    lesson = Lesson(Task("verification"), SHAPE, student, net.freeze(teacher))
    return SimKD(SimKD.Config(), lesson).deployable()


NETS: dict[str, Callable[[], net.Net]] = {
    make.__name__: make for make in (resnet, resnet_classifier, mobilefacenet, mobilefacenet_relu, sim_kd_student)
}


def build(spec: dict[str, object]) -> net.Net:
    torch.manual_seed(0)
    return net.build(NetSpec.model_validate(spec), SHAPE)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (16, 1, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def graphs(samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("graphs")

    def exported(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            made = NETS[name]().eval()
            output = "logits" if "classifier" in name else "embedding"
            to_onnx.export(made, output, samples, path)
        return path

    return exported


def in_precision(model: onnx.ModelProto, precision: str, samples: np.ndarray) -> onnx.ModelProto:
    if precision == "fp16":
        return to_fp16(model, [samples])
    return quantize_model(model, [samples], "tensorrt").model if precision == "int8" else model


@pytest.fixture(scope="module")
def target() -> Target:
    reason = BACKEND.available()
    return drawers.read_target("nvidia-rtx") if builds() else pytest.skip(f"no TensorRT for RTX here: {reason}")


def builds() -> bool:
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_exported_graph_becomes_an_engine(
    name: str,
    precision: str,
    target: Target,
    graphs: Callable[[str], Path],
    samples: np.ndarray,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    path = tmp_path / f"{name}.{precision}.onnx"
    save_model(in_precision(load_model(graphs(name)), precision, samples), path)
    engine = BACKEND.build(path, target, tmp_path / "engine")
    assert engine.stat().st_size > 10_000
    capabilities = " ".join(target.compute_capabilities)
    record_property("engine", f"{name} {precision}: {engine.stat().st_size:,} bytes for SM {capabilities}")


def test_turing_refuses_an_fp32_matrix_product_and_the_mend_is_told(
    target: Target, graphs: Callable[[str], Path], tmp_path: Path
) -> None:
    turing = target.model_copy(update={"compute_capabilities": ("7.5",)})
    with pytest.raises(UserError) as caught:
        BACKEND.build(graphs("resnet"), turing, tmp_path / "engine")
    assert "7.5" in str(caught.value)
    assert "fp16" in str(caught.value).lower()
    assert not (tmp_path / "engine").exists()
