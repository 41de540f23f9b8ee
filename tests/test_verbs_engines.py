"""What stands above an engine: built by a stand-in for TensorRT that runs ONNX Runtime and may miscompute."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from kd2edge import drawers
from kd2edge.artifact import Artifact, describe, manifest_path, open_artifact, signature_path
from kd2edge.edge.built_on import Misfit
from kd2edge.edge.fake import FakeBackend, FakeSession
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.files import sha256
from kd2edge.graph.run import run_onnx
from kd2edge.schema import Precision, Target
from kd2edge.verbs.engines import build_engine, default_target, engine_builder, engine_path, judged
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
    def __init__(self, error: float = 0.0, fault: str | None = None, refuses: UserError | None = None) -> None:
        super().__init__()
        self.error, self.fault, self.refuses = error, fault, refuses

    def available(self) -> str | None:
        return self.fault

    def build(self, onnx_file: Path, target: Target, out: Path) -> Path:
        built = onnx.load(str(onnx_file))
        built.doc_string = f"built by {type(self).__name__}"  # an engine is never the file it was built from
        onnx.save(built, str(out))
        return out

    def open(self, path: Path, target: Target) -> FakeSession:
        if self.refuses:
            raise self.refuses
        if target.require_signature:
            raise UserError(f"{path} is not signed.")
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
    engine, said = built(model, Imitation(fault="There is no driver.", refuses=UserError("It cannot load.")))
    assert engine.manifest.parity is None
    assert engine.manifest.details["parity_not_proved"] == "There is no driver."
    assert "its parity is not proved here. There is no driver." in said[-1]
    with pytest.raises(UserError, match="cannot load"):
        built(model, Imitation(refuses=UserError("It cannot load.")))


def test_an_engine_for_gpus_that_are_not_here_is_made_without_a_proof(model: Artifact) -> None:
    engine, said = built(model, Imitation(refuses=Misfit("The engine is for SM 12.0, here is SM 8.6.")))
    assert engine.manifest.parity is None
    assert engine.manifest.details["parity_not_proved"] == "The engine is for SM 12.0, here is SM 8.6."
    assert "its parity is not proved here. The engine is for SM 12.0" in said[-1]


def test_an_engine_is_proved_before_anybody_could_sign_it(model: Artifact) -> None:
    strict = TARGET.model_copy(update={"require_signature": True})
    engine = build_engine(model, "nvidia-rtx", strict, Imitation(), SAMPLES, lambda sentence: None)
    assert engine.manifest.parity is not None
    assert engine.manifest.details["target"]["require_signature"] is True


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


@pytest.mark.parametrize("board", ["jetson-orin-nano", "jetson-thor"])
def test_a_boards_engine_is_not_quietly_built_for_something_else(board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorrt" else found(name))
    with pytest.raises(UserError, match=f"Engines for {board} are built by the board's own TensorRT") as caught:
        engine_builder(board, drawers.read_target(board))
    assert "--on ssh://" in (caught.value.hint or "")
    assert "--kit" in (caught.value.hint or "")
    assert engine_builder("nvidia-rtx", TARGET).name == "tensorrt_rtx"


class Telling(Imitation):
    """Writes a manifest as the TensorRT back ends do."""

    def build(self, onnx_file: Path, target: Target, out: Path) -> Path:
        built = super().build(onnx_file, target, out)
        layers = {"layers": 9, "int8": 4, "fp16": 0, "fp32": 3, "reformats": 2, "adds": 2, "fused_adds": 1}
        quantized = {"int8_expected": 6, "int8_missing": ["Conv_3"], "int8_unknown": ["Conv_6"]}
        details = {
            "built_on": {"backend": "tensorrt_rtx", "tensorrt": "10.3.0"},
            "build": {"timing_cache": {"begun_with": "ab" * 32}},
            "layers": layers | quantized,
        }
        describe(built, kind="engine", role="fp32", verb="export", parents=(sha256(onnx_file),), details=details)
        return built


def test_what_the_builder_tells_is_kept_and_said(model: Artifact) -> None:
    engine, said = built(model, Telling())
    assert engine.manifest.details["layers"]["layers"] == 9
    assert engine.manifest.versions["tensorrt_rtx"] == "10.3.0"
    assert engine.manifest.target == "nvidia-rtx"
    layers = next(sentence for sentence in said if "layers" in sentence)
    assert "4 of 6 quantized products run in INT8, not Conv_3, of 1 nothing is told" in layers
    assert "1 of 2 additions fused" in layers
    assert any("built with the timings of the build before (sha256 abababab" in sentence for sentence in said)


def test_an_older_build_tells_nothing_of_a_new_one(model: Artifact) -> None:
    built(model, Telling())
    engine, _ = built(model, Imitation())
    assert "layers" not in engine.manifest.details


def test_for_a_device_that_is_not_here_nvidias_builder_is_asked(model: Artifact) -> None:
    version = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed").__version__
    said: list[str] = []
    judged(described(model), "jetson-orin-nano", drawers.read_target("jetson-orin-nano"), said.append)
    assert said == [
        f"NVIDIA's parser and builder accept net.onnx: TensorRT for RTX {version}, SM 8.6 standing for 8.7."
    ]
    thor = drawers.read_target("jetson-thor")
    twice = judged(open_artifact(model.path), "jetson-thor", thor, said.append)
    accepted = open_artifact(model.path).manifest.details["accepted"]
    assert twice.manifest.details["accepted"] == accepted
    assert accepted["jetson-orin-nano"]["stands_for"] == "8.7"
    assert accepted["jetson-thor"]["accepted"] is True
    assert sorted(path.name for path in model.path.parent.iterdir()) == ["net.onnx", "net.onnx.manifest.json"]


def test_a_signed_manifest_is_left_as_it_was_signed(model: Artifact) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    signed = described(model)
    before = manifest_path(model.path).read_bytes()
    signature_path(model.path).write_bytes(b"a signature")
    said: list[str] = []
    assert judged(signed, "jetson-orin-nano", drawers.read_target("jetson-orin-nano"), said.append) is signed
    assert len(said) == 1
    assert manifest_path(model.path).read_bytes() == before


def described(model: Artifact) -> Artifact:
    return describe(model.path, kind="onnx", role="fp32", verb="export", details={"kept": 1})


def test_where_nvidias_builder_is_not_nothing_is_said(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert judged(model, "jetson-orin-nano", drawers.read_target("jetson-orin-nano"), pytest.fail) is model
    assert judged(model, "nvidia-rtx", TARGET, pytest.fail) is model
