"""NVIDIA's own parser and builder accept what kd2edge exports: FP32, FP16 and INT8 of real nets become engines.

TensorRT for RTX builds without a GPU, so this proof runs wherever its package installs. It says nothing of speed.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kd2edge import drawers
from kd2edge.artifact import open_artifact
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
from kd2edge.verbs.engines import proof

pytestmark = pytest.mark.kd

BACKEND = open_backend("tensorrt_rtx")
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
PRECISIONS = ("fp32", "fp16", "int8")
HALF_INT8 = "int8-fp16"
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

ISSUE_NETS = ("resnet", "mobilefacenet", "sim_kd_student")


def build(spec: dict[str, object]) -> net.Net:
    torch.manual_seed(0)
    return net.build(NetSpec.model_validate(spec), SHAPE)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (16, 1, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def graphs(samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The ONNX file of a net in a precision, made by the exporter, `to_fp16` and `quantize_model`, each once."""
    folder = tmp_path_factory.mktemp("graphs")

    def exported(name: str, precision: str) -> Path:
        path = folder / f"{name}.{precision}.onnx"
        if path.exists():
            return path
        if precision == "fp32":
            to_onnx.export(NETS[name]().eval(), "logits" if "classifier" in name else "embedding", samples, path)
            return path
        wider = "int8" if precision == HALF_INT8 else "fp32"
        save_model(in_precision(load_model(exported(name, wider)), precision, samples), path)
        return path

    return exported


def in_precision(model: onnx.ModelProto, precision: str, samples: np.ndarray) -> onnx.ModelProto:
    if precision in ("fp16", HALF_INT8):
        return to_fp16(model, [samples])
    return quantize_model(model, [samples], "tensorrt").model


@pytest.fixture(scope="module")
def target() -> Target:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'kd2edge[rtx]'")
    return drawers.read_target("nvidia-rtx")


def named(target: Target, *capabilities: str) -> Target:
    return target.model_copy(update={"compute_capabilities": capabilities})


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_exported_graph_becomes_an_engine(
    name: str,
    precision: str,
    target: Target,
    graphs: Callable[[str, str], Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """One engine for all that the target names, whose manifest says so."""
    engine = BACKEND.build(graphs(name, precision), target, tmp_path / "engine")
    assert engine.stat().st_size > 10_000
    manifest = open_artifact(engine).manifest
    assert manifest.precision == precision
    assert manifest.details["build"]["compute_capabilities"] == list(CAPABILITIES) == list(target.compute_capabilities)
    record_property("engine", f"{name} {precision}: {engine.stat().st_size:,} bytes for SM {' '.join(CAPABILITIES)}")


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_compute_capability_alone(
    precision: str, capability: str, target: Target, graphs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    for name in ISSUE_NETS:
        engine = BACKEND.build(graphs(name, precision), named(target, capability), tmp_path / f"{name}.engine")
        assert open_artifact(engine).manifest.details["build"]["compute_capabilities"] == [capability]


@pytest.mark.parametrize("name", ISSUE_NETS)
@pytest.mark.parametrize("precision", ["fp16", HALF_INT8])
def test_turing_takes_what_has_no_fp32_product(
    name: str, precision: str, target: Target, graphs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """INT8 whose float layers are FP16: what the quantizer leaves float is FP32 else, the last product among it."""
    engine = BACKEND.build(graphs(name, precision), named(target, "7.5"), tmp_path / "engine")
    assert open_artifact(engine).manifest.details["build"]["compute_capabilities"] == ["7.5"]


@pytest.mark.parametrize("name", ISSUE_NETS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_turing_refuses_an_fp32_matrix_product_and_the_mend_is_told(
    name: str, precision: str, target: Target, graphs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"\(Gemm; inputs.*Turing") as caught:
        BACKEND.build(graphs(name, precision), named(target, "7.5"), tmp_path / "engine")
    assert "7.5" in str(caught.value)
    assert "fp16" in str(caught.value).lower()
    assert not (tmp_path / "engine").exists()


BOARDS = ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"]


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_for_a_board_another_gpu_stands_and_is_named(
    board: str, precision: str, target: Target, graphs: Callable[[str, str], Path]
) -> None:
    """RTX names neither 8.7 nor Thor's: the same graph for SM 8.6, with what it stands for in the record."""
    goal = drawers.read_target(board)
    assert goal.sm is not None
    for name in ISSUE_NETS:
        found = proof(graphs(name, precision), goal)
        assert found is not None
        assert found == {
            "by": f"TensorRT for RTX {version('tensorrt-rtx')}",
            "sm": "8.6",
            "stands_for": goal.sm,
            "accepted": True,
        }


def test_a_refusal_is_recorded_as_one(target: Target, graphs: Callable[[str, str], Path]) -> None:
    turing = drawers.read_target("jetson-orin-nano").model_copy(update={"proved_as": "7.5"})
    found = proof(graphs("resnet", "fp32"), turing)
    assert found is not None
    assert found["accepted"] is False
    assert "Gemm" in found["refusal"]


def test_a_device_that_rtx_names_needs_no_stand_in(target: Target, graphs: Callable[[str, str], Path]) -> None:
    assert proof(graphs("resnet", "fp32"), target) is None
