"""What stands above an engine: built by a stand-in for TensorRT that runs ONNX Runtime and may miscompute."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from kd2edge import drawers
from kd2edge.artifact import Artifact
from kd2edge.edge.fake import FakeBackend, FakeSession
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.schema import Precision, Target
from kd2edge.verbs.engines import build_engine, default_target, engine_path
from kd2edge.verbs.models import open_model
from kd2edge.verbs.predict import Classified, predict
from tests import graphs

TARGET = drawers.read_target("nvidia-rtx")
SAMPLES = graphs.images(40)


class Engine(FakeSession):
    """The file in ONNX Runtime, its outputs mixed with `error` parts of noise."""

    def __init__(self, path: Path, error: float) -> None:
        super().__init__()
        self.path, self.error = path, error

    def infer(self, x: Floats) -> Floats:
        outputs = run_onnx(self.path, x)
        noise = np.random.default_rng(1).standard_normal(outputs.shape).astype(np.float32)
        return outputs + self.error * float(np.abs(outputs).mean()) * noise


class Imitation(FakeBackend):
    def __init__(self, error: float = 0.0, fault: str | None = None, refuses: bool = False) -> None:
        super().__init__()
        self.error, self.fault, self.refuses = error, fault, refuses

    def available(self) -> str | None:
        return self.fault

    def open(self, path: Path, target: Target) -> FakeSession:
        if self.refuses:
            raise UserError(f"It cannot load {path}.")
        return Engine(path, self.error)


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    path = tmp_path / "net.onnx"
    onnx.save(graphs.residual_net(), str(path))
    return open_model(path, "zero-one", lambda sentence: None)


def built(model: Artifact, backend: Imitation, precision: Precision = "fp32") -> tuple[Artifact, list[str]]:
    said: list[str] = []
    stated = Artifact(model.path, model.manifest.model_copy(update={"precision": precision}))
    return build_engine(stated, "nvidia-rtx", TARGET, backend, SAMPLES, said.append), said


def test_an_engine_that_runs_here_is_proved(model: Artifact) -> None:
    engine, said = built(model, Imitation())
    parity = engine.manifest.parity
    assert parity is not None
    assert (parity["against"], parity["images"], parity["max_abs"]) == ("onnxruntime", 40, 0)
    assert "parity_not_proved" not in engine.manifest.details
    assert len(said) == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_float_engine_that_disagrees_is_not_made(model: Artifact, precision: Precision) -> None:
    built(model, Imitation(error=1e-3), precision)  # TF32 and FP16 round as much
    with pytest.raises(UserError, match=r"net\.nvidia-rtx\.engine does not give what net\.onnx gives: cosine"):
        built(model, Imitation(error=1.0), precision)


def test_an_int8_engine_that_disagrees_is_told(model: Artifact) -> None:
    engine, said = built(model, Imitation(error=3.0), "int8")
    assert engine.manifest.parity is not None
    assert any("does not give what net.onnx gives" in sentence for sentence in said)


def test_only_a_machine_that_cannot_run_engines_excuses_a_proof(model: Artifact) -> None:
    engine, said = built(model, Imitation(fault="There is no driver.", refuses=True))
    assert engine.manifest.parity is None
    assert engine.manifest.details["parity_not_proved"] == "There is no driver."
    assert "its parity is not proved here. There is no driver." in said[-1]
    with pytest.raises(UserError, match="cannot load"):
        built(model, Imitation(refuses=True))


def test_an_engine_is_named_after_its_target_even_where_that_is_a_file() -> None:
    assert engine_path(Path("a/net.onnx"), "there/board.yaml") == Path("a/net.board.engine")


def test_an_engine_is_asked_like_any_other_model(
    model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict` opens an engine by the target in its manifest, and an altered engine not at all."""
    engine, _ = built(model, Imitation())
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(picture)
    monkeypatch.setattr("kd2edge.verbs.engines.open_backend", lambda name: Imitation())
    (answer,) = predict(engine.path, [picture])
    assert isinstance(answer, Classified)
    engine.path.write_bytes(engine.path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="sha256 differs"):
        predict(engine.path, [picture])


@pytest.mark.parametrize(
    ("installed", "machine", "target"),
    [
        ({"tensorrt", "tensorrt_rtx"}, "x86_64", "nvidia-dgpu"),
        ({"tensorrt_rtx"}, "x86_64", "nvidia-rtx"),
        (set[str](), "x86_64", "nvidia-dgpu"),
        ({"tensorrt"}, "aarch64", "jetson-orin-nano"),
    ],
)
def test_trt_alone_aims_at_what_is_installed(
    installed: set[str], machine: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in installed else None)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert default_target() == target
    assert target in drawers.names("targets")
