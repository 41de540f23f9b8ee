"""The TensorRT back end as far as a machine without it can tell: one sentence of help, and the route of the build."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from kd2edge.edge import trt_versions
from kd2edge.edge.session import Backend, open_backend
from kd2edge.errors import MissingExtra, UserError, install_command
from kd2edge.schema import Target
from tests import graphs

TARGET = Target(about="dGPU", backend="tensorrt", flavour="tensorrt", precisions=("fp32",), workspace_mib=64)


@pytest.fixture
def backend() -> Backend:
    return open_backend("tensorrt")


def test_without_the_package_one_sentence_helps(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert backend.available() == (
        "The back end tensorrt needs tensorrt, which is not installed: " + install_command("trt")
    )
    with pytest.raises(MissingExtra, match=r"\[trt\]"):
        backend.build(tmp_path / "net.onnx", TARGET, tmp_path / "net.engine")
    with pytest.raises(UserError, match="not installed"):
        backend.open(tmp_path / "net.engine", TARGET)


class Logger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = range(3)


def null_builder(logger: Any) -> Any:
    logger.log(Logger.Severity.WARNING, "unimportant")
    logger.log(Logger.Severity.ERROR, "CUDA initialization failure with error: 35")
    raise TypeError("pybind11::init(): factory function returned nullptr")


def test_a_builder_without_a_driver_is_a_user_error(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = SimpleNamespace(ILogger=Logger, Builder=null_builder, __version__="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", binding)
    onnx.save(graphs.residual_net(), str(tmp_path / "net.onnx"))
    with pytest.raises(UserError, match=r"TensorRT cannot build here: CUDA initialization failure with error: 35\."):
        backend.build(tmp_path / "net.onnx", TARGET, tmp_path / "net.engine")


def test_strong_typing_is_asked_for_where_it_must_be() -> None:
    ten = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1))
    eleven = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert trt_versions.creation_flags(ten) == 2
    assert trt_versions.creation_flags(eleven) == 0


def test_compute_capabilities_are_for_rtx_alone() -> None:
    from kd2edge.edge.backends.tensorrt import TensorRT

    with pytest.raises(UserError, match="compute_capabilities"):
        TensorRT().for_devices(None, None, TARGET.model_copy(update={"compute_capabilities": ("8.6",)}))
    TensorRT().for_devices(None, None, TARGET)
