"""The one place where an engine is loaded: verified, built for this machine, or never given to the runtime.

Binding, driver and session are stand-ins; that the session was never made is what proves that nothing was loaded.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from kd2edge.artifact import manifest_path, open_artifact
from kd2edge.edge import trt_build
from kd2edge.edge.built_on import Misfit
from kd2edge.edge.session import Backend, open_backend
from kd2edge.edge.trt_layers import table_path
from kd2edge.errors import UserError
from kd2edge.schema import BatchRange, Build, Target
from tests import graphs
from tests.imitated_trt import imitation

HERE = {"backend": "tensorrt", "tensorrt": "10.3.0", "gpu": "Orin", "sm": "8.7", "driver": "540.4.0", "cuda": "12.6"}
TARGET = Target(
    about="a board",
    backend="tensorrt",
    flavour="tensorrt",
    precisions=("fp32",),
    sm="8.7",
    batch=BatchRange(min=1, opt=2, max=4),
)
TABLE = {
    "Layers": [
        {
            "Name": "Conv_0 + Relu_2",
            "LayerType": "CaskConvolution",
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc",
            "Metadata": "[ONNX Layer: Conv_0]\x1e[ONNX Layer: Relu_2]",
        },
        {"Name": "Reformatting CopyNode for Output", "LayerType": "Reformat", "Metadata": ""},
    ]
}


class Device:
    """Notes the sessions that were made, and plays the engine: 3 ms for the first layer in every profiled run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[bytes] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.here: dict[str, Any] = dict(HERE)
        self.table = json.dumps(TABLE)
        self.trt = imitation("10.3.0")
        self.trt.IProfiler = type("IProfiler", (), {})
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setattr(trt_build, "driver_fault", lambda label: None)
        monkeypatch.setattr(trt_build, "built_on", lambda *facts: dict(self.here))
        monkeypatch.setattr(trt_build, "TrtSession", self.session)

    def session(self, trt: Any, logger: Any, engine: bytes, path: Path, label: str, *how: Any) -> "Device":
        self.loaded.append(engine)
        return self

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *fault: object) -> None: ...

    def infer(self, x: np.ndarray) -> None:
        self.shapes.add(x.shape)

    def profiled(self, x: np.ndarray, profiler: Any) -> None:
        profiler.report_layer_time("Conv_0 + Relu_2", 3.0)

    def inspection(self) -> str:
        return self.table


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


@pytest.fixture
def backend(device: Device) -> Backend:
    return open_backend("tensorrt")


@pytest.fixture
def build(backend: Backend, tmp_path: Path) -> Callable[[Target], Path]:
    onnx.save(graphs.residual_net(), str(tmp_path / "net.onnx"))
    return lambda target: backend.build(tmp_path / "net.onnx", target, tmp_path / "net.engine")


def test_where_engines_run_their_layers_are_told(build: Callable[[Target], Path], device: Device) -> None:
    engine = build(TARGET)
    details = open_artifact(engine).manifest.details
    assert details["built_on"] == HERE
    assert details["layers"]["layers"] == 2
    assert (details["layers"]["fp32"], details["layers"]["reformats"]) == (1, 1)
    table = json.loads(table_path(engine).read_text())
    assert [row["ms"] for row in table["layers"]] == [3.0, None]
    assert table["layers"][0]["nodes"] == ["Conv_0", "Relu_2"]
    assert device.shapes == {(2, 3, 16, 16)}  # what the profile is optimised for


def test_layers_that_nobody_tells_are_unknown_with_the_reason(build: Callable[[Target], Path], device: Device) -> None:
    build(TARGET)
    device.table = "no table"
    engine = build(TARGET)  # of which the older one's table tells nothing
    details = open_artifact(engine).manifest.details
    assert details["layers"] is None
    assert "says nothing that is understood" in details["layers_unknown"]
    assert not table_path(engine).exists()


def test_a_fresh_engine_is_inspected_before_anybody_could_sign_it(build: Callable[[Target], Path]) -> None:
    engine = build(TARGET.model_copy(update={"require_signature": True}))
    assert open_artifact(engine).manifest.details["layers"] is not None


def test_what_is_loaded_is_what_was_verified(build: Callable[[Target], Path], backend: Backend, device: Device) -> None:
    engine = build(TARGET)
    device.loaded.clear()
    backend.open(engine, TARGET)
    assert device.loaded == [engine.read_bytes()]


def altered_engine(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[3] ^= 1
    engine.write_bytes(content)


def without_manifest(engine: Path) -> None:
    manifest_path(engine).unlink()


def told_otherwise(engine: Path) -> None:
    told = json.loads(manifest_path(engine).read_text())
    del told["details"]["built_on"]
    manifest_path(engine).write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (altered_engine, "sha256 differs"),
        (without_manifest, "no manifest"),
        (told_otherwise, "Nothing says where it was built"),
    ],
)
def test_an_engine_that_proves_nothing_is_not_loaded(
    harm: Callable[[Path], None], sentence: str, build: Callable[[Target], Path], backend: Backend, device: Device
) -> None:
    engine = build(TARGET)
    device.loaded.clear()
    harm(engine)
    with pytest.raises(UserError, match=sentence):
        backend.open(engine, TARGET)
    assert device.loaded == []


@pytest.mark.parametrize(
    ("elsewhere", "sentence"),
    [
        ({"tensorrt": "10.7.0"}, "built with TensorRT 10.3.0, here is 10.7.0"),
        ({"sm": "8.9", "gpu": "NVIDIA L4"}, r"built for Orin \(SM 8\.7\), here is NVIDIA L4"),
        ({"cuda": "11.4"}, "under CUDA 12.6, the driver here knows 11.4"),
    ],
)
def test_on_another_machine_it_is_not_loaded(
    elsewhere: dict[str, str], sentence: str, build: Callable[[Target], Path], backend: Backend, device: Device
) -> None:
    engine = build(TARGET)
    device.loaded.clear()
    device.here |= elsewhere
    with pytest.raises(Misfit, match=sentence) as caught:
        backend.open(engine, TARGET)
    assert caught.value.hint
    assert device.loaded == []


def test_a_version_compatible_engine_is_loaded_by_a_newer_tensorrt(
    build: Callable[[Target], Path], backend: Backend, device: Device
) -> None:
    engine = build(TARGET.model_copy(update={"build": Build(version_compatible=True)}))
    device.here |= {"tensorrt": "10.7.0"}
    backend.open(engine, TARGET)


def test_an_engine_is_given_to_a_runtime_in_one_place() -> None:
    edge = Path(trt_build.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in edge.rglob("*.py")}
    assert [name for name, text in texts.items() if "deserialize_cuda_engine" in text] == ["trt_session.py"]
    assert [name for name, text in texts.items() if re.search(r"\bTrtSession\(", text)] == ["trt_build.py"]
