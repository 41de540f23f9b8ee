"""Engines: an exported ONNX file built for one device. The graph states its precision, so none is asked for here."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.artifact import Artifact, describe
from kd2edge.edge.session import Backend, open_backend
from kd2edge.errors import UserError
from kd2edge.graph.parity import Parity, compare, require, run_onnx
from kd2edge.schema import Target
from kd2edge.verbs.images import Floats
from kd2edge.verbs.models import Say, inherited


def engine_builder(name: str, target: Target) -> Backend:
    """The back end that builds for a target. Raises `UserError` where its runtime takes ONNX files as they are."""
    if target.backend == "onnxruntime":
        raise UserError(
            f"The target {name} runs ONNX files as they are: there is no engine to build.",
            "leave --trt out, or name a TensorRT target (kd2edge list targets)",
        )
    return open_backend(target.backend)


def default_target() -> str:
    """The target of `--trt` where none is named: TensorRT's where it is installed, else TensorRT for RTX's."""
    if importlib.util.find_spec("tensorrt") is None and importlib.util.find_spec("tensorrt_rtx") is not None:
        return "nvidia-rtx"
    return "jetson-orin-nano" if platform.machine() == "aarch64" else "nvidia-dgpu"


def engine_path(model: Path, target: str) -> Path:
    """Where the engine of an ONNX file lies: beside it, by target, since an engine suits one device."""
    return model.with_name(f"{model.stem}.{Path(target).stem}.engine")


def build_engine(model: Artifact, name: str, target: Target, backend: Backend, samples: Floats, say: Say) -> Artifact:
    """Build, compare with the ONNX file on `samples` float32 [N, C, H, W] where engines run, and describe.

    Raises `UserError` when the builder is not installed or refuses the graph, and when the engine can run here but
    does not, or in FP32 or FP16 does not give what its ONNX file gives; of INT8 that is told.
    """
    path = engine_path(model.path, name)
    say(f"Building {path.name} with {target.backend} ...")
    built = backend.build(model.path, target, path)
    parity, reason = _parity(built, model, target, backend, samples, say)
    if reason is not None:
        say(f"{path.name} is built; its parity is not proved here. {reason}")
    return describe(
        built,
        kind="engine",
        role=model.manifest.role,
        verb="export",
        parents=(model.manifest.sha256,),
        precision=model.manifest.precision,
        flavour=model.manifest.flavour,
        target=name,
        parity=parity,
        details={"target": target.model_dump(mode="json"), **({"parity_not_proved": reason} if reason else {})},
        versions={target.backend: _version(target.backend)},
        **inherited(model),
    )


def run_engine(engine: Artifact, images: Floats) -> Floats:
    """Outputs float32 [N, D] of an engine whose manifest was verified. Raises `UserError` where it cannot run here."""
    target = Target.model_validate(engine.manifest.details.get("target"))
    return _inferred(open_backend(target.backend), engine.path, target, images)


def _inferred(backend: Backend, engine: Path, target: Target, images: Floats) -> Floats:
    with backend.open(engine, target) as session:
        most = target.batch.max
        return np.concatenate([session.infer(images[start : start + most]) for start in range(0, len(images), most)])


def _parity(
    engine: Path, model: Artifact, target: Target, backend: Backend, samples: Floats, say: Say
) -> tuple[dict[str, Any] | None, str | None]:
    """What the comparison with ONNX Runtime gave, or the reason why no engine can run on this machine."""
    reason = backend.available()
    if reason is not None:
        return None, reason
    found = compare(run_onnx(model.path, samples), _inferred(backend, engine, target, samples))
    _require(found, engine, model, say)
    return {"against": "onnxruntime", "images": len(samples), **dataclasses.asdict(found)}, None


def _require(found: Parity, engine: Path, model: Artifact, say: Say) -> None:
    """Raise `UserError` for an engine that disagrees with its ONNX file; of INT8 it is the gate that judges.

    FP32 has to reach FP16's level only: TensorRT may multiply float32 in TF32, which has FP16's mantissa.
    """
    int8 = model.manifest.precision == "int8"
    try:
        require(found, "int8" if int8 else "fp16")
    except UserError as alarm:
        cosines = f"cosine {found.cosine_mean:.5f} on average and {found.cosine_min:.5f} at worst"
        sentence = f"{engine.name} does not give what {model.path.name} gives: {cosines}."
        if not int8:
            raise UserError(sentence, "the builder is at fault, not the training: try another version of it") from alarm
        say(sentence)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # JetPack brings its bindings without metadata
