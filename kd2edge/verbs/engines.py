"""Engines: an exported ONNX file built for one device. The graph states its precision, so none is asked for here."""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.artifact import Artifact, describe
from kd2edge.edge.session import Backend, open_backend
from kd2edge.errors import UserError
from kd2edge.graph.parity import compare, run_onnx
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


def engine_path(model: Path, target: str) -> Path:
    """Where the engine of an ONNX file lies: beside it, by target, since an engine suits one device."""
    return model.with_name(f"{model.stem}.{target}.engine")


def build_engine(model: Artifact, name: str, target: Target, backend: Backend, samples: Floats, say: Say) -> Artifact:
    """Build, compare with the ONNX file on `samples` float32 [N, C, H, W] where engines run, and describe.

    Raises `UserError` when the builder is not installed or refuses the graph.
    """
    path = engine_path(model.path, name)
    say(f"Building {path.name} with {target.backend} ...")
    built = backend.build(model.path, target, path)
    parity, reason = _parity(built, model, target, backend, samples)
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


def _parity(
    engine: Path, model: Artifact, target: Target, backend: Backend, samples: Floats
) -> tuple[dict[str, Any] | None, str | None]:
    """What the comparison with ONNX Runtime gave, or the reason why the engine cannot run on this machine."""
    try:
        with backend.open(engine, target) as session:
            most = target.batch.max
            rows = [session.infer(samples[start : start + most]) for start in range(0, len(samples), most)]
    except UserError as fault:
        return None, fault.message
    found = compare(run_onnx(model.path, samples), np.concatenate(rows))
    return {"against": "onnxruntime", "images": len(samples), **dataclasses.asdict(found)}, None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # JetPack brings its bindings without metadata
