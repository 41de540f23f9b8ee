"""Engines: an exported ONNX file built for one device. The graph states its precision, so none is asked for here."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
import tempfile
from pathlib import Path
from typing import Any

from kd2edge import drawers
from kd2edge.artifact import Artifact, describe, open_artifact, read_manifest, signature_path
from kd2edge.edge import trt_versions
from kd2edge.edge.built_for import built_for
from kd2edge.edge.built_on import Misfit
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.session import Backend, open_backend
from kd2edge.edge.trt_layers import told
from kd2edge.errors import UserError
from kd2edge.files import sha256
from kd2edge.graph.parity import Parity, compare, require, run_onnx
from kd2edge.run import Run, open_run
from kd2edge.schema import Target
from kd2edge.verbs.images import Floats
from kd2edge.verbs.models import Say, inherited, is_run


def engine_builder(name: str, target: Target) -> Backend:
    """The back end that builds for a target. Raises `UserError` where its runtime takes ONNX files as they are."""
    if target.backend == "onnxruntime":
        raise UserError(
            f"The target {name} runs ONNX files as they are: there is no engine to build.",
            "leave --trt out, or name a TensorRT target (kd2edge list targets)",
        )
    if target.board is not None and importlib.util.find_spec(target.backend) is None:
        raise UserError(
            f"Engines for {name} are built by the board's own TensorRT, which is not here.", trt_versions.ELSEWHERE
        )
    return open_backend(target.backend)


def default_target() -> str:
    """The target of `--trt` where none is named: TensorRT's where it is installed, else TensorRT for RTX's."""
    if importlib.util.find_spec("tensorrt") is None and importlib.util.find_spec("tensorrt_rtx") is not None:
        return "nvidia-rtx"
    return "jetson-orin-nano" if platform.machine() == "aarch64" else "nvidia-dgpu"


def target_of(source: Path) -> str:
    """The target of `--trt` for a run, where its own has engines, or for an ONNX file: `default_target`."""
    own = open_run(source).recipe.target if is_run(source) else None
    return own if own and drawers.read_target(own).backend != "onnxruntime" else default_target()


def engine_path(model: Path, target: str) -> Path:
    """Where the engine of an ONNX file lies: beside it, by target, since an engine suits one device."""
    return model.with_name(f"{model.stem}.{Path(target).stem}.engine")


def exported(run: Run, model: Artifact, target: str) -> Artifact | None:
    """The engine of one of a run's ONNX files for a target, by the ledger; None where there is none of this very file.

    It is not opened: that it is gone, or altered, is for whoever runs it to say.
    """
    path = engine_path(model.path, target)
    entries = [event for event in run.events() if event["event"] == "artifact" and event["kind"] == "engine"]
    entry = next((e for e in reversed(entries) if (run.path / e["file"]).resolve() == path.resolve()), None)
    if entry is None:
        return None
    try:
        manifest = read_manifest(path)[0]
    except UserError:
        return None
    made_of_it = model.manifest.sha256 in manifest.parents
    return Artifact(path, manifest.model_copy(update={"sha256": entry["sha256"]})) if made_of_it else None


def graph_of(artifact: Artifact) -> Path | None:
    """The ONNX file of an artefact: itself, or the one beside an engine that it was built from, where it still is."""
    if artifact.manifest.kind != "engine":
        return artifact.path
    stem = artifact.path.name.removesuffix(f".{Path(artifact.manifest.target or '').stem}.engine")
    graph = artifact.path.with_name(f"{stem}.onnx")
    return graph if graph.is_file() and sha256(graph) in artifact.manifest.parents else None


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
    details = _told_by(built, model)
    _tell(path.name, details, say)
    details |= {"parity_not_proved": reason} if reason else {}
    version = str(details.get("built_on", {}).get("tensorrt") or _version(target.backend))
    return described(built, model, name, target, parity, details, {target.backend: version})


def described(
    engine: Path,
    model: Artifact,
    name: str,
    target: Target,
    parity: dict[str, Any] | None,
    details: dict[str, Any],
    versions: dict[str, str],
) -> Artifact:
    """The engine of an ONNX file for the target called `name`, with its manifest."""
    return describe(
        engine,
        kind="engine",
        role=model.manifest.role,
        verb="export",
        parents=(model.manifest.sha256,),
        precision=model.manifest.precision,
        flavour=model.manifest.flavour,
        target=name,
        parity=parity,
        details={**details, "target": target.model_dump(mode="json")},
        versions=versions,
        **inherited(model),
    )


def _told_by(built: Path, model: Artifact) -> dict[str, Any]:
    """What the back end wrote into the manifest of this very build; one of an older build tells nothing."""
    try:
        found = open_artifact(built).manifest
    except UserError:
        return {}
    return found.details if found.kind == "engine" and found.parents == (model.manifest.sha256,) else {}


def _tell(name: str, details: dict[str, Any], say: Say) -> None:
    if details.get("layers"):
        say(f"{name}: {told(details['layers'])}")
    cache = details.get("build", {}).get("timing_cache") or {}
    if cache.get("begun_with"):
        say(f"{name} was built with the timings of the build before (sha256 {cache['begun_with'][:16]}).")


def judged(model: Artifact, name: str, target: Target, say: Say) -> Artifact:
    """Tell what NVIDIA's parser and builder say of an ONNX file for a device that is not here, where they can be asked.

    It is recorded in the manifest under `accepted`, by target; a signed manifest is left as it was signed.
    """
    found = proof(model.path, target)
    if found is None:
        return model
    stand_in = f"{found['by']}, SM {found['sm']} standing for {found['stands_for']}"
    if found["accepted"]:
        say(f"NVIDIA's parser and builder accept {model.path.name}: {stand_in}.")
    else:
        say(f"NVIDIA's parser and builder refuse {model.path.name} ({stand_in}): {found['refusal']}")
    if signature_path(model.path).exists():
        return model
    details = model.manifest.details
    accepted = {**details.get("accepted", {}), name: found}
    fields = model.manifest.model_dump(exclude={"manifest", "file", "sha256", "bytes"})
    return describe(model.path, **{**fields, "details": {**details, "accepted": accepted}})


def proof(model: Path, target: Target) -> dict[str, Any] | None:
    """Whether TensorRT for RTX builds an ONNX file for the compute capability that stands for the target's.

    None where the target names no stand-in or RTX is not installed. RTX is another product than the device's TensorRT:
    strong evidence, not proof of a build there.
    """
    if target.proved_as is None or importlib.util.find_spec("tensorrt_rtx") is None:
        return None
    stand_in = Target(
        about=target.about,
        backend="tensorrt_rtx",
        flavour=target.flavour,
        precisions=target.precisions,
        batch=target.batch,
        compute_capabilities=(target.proved_as,),
        workspace_mib=target.workspace_mib,
    )
    by = f"TensorRT for RTX {_version('tensorrt_rtx')}"
    found = {"by": by, "sm": target.proved_as, "stands_for": target.sm or "an unnamed GPU"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            open_backend("tensorrt_rtx").build(model, stand_in, Path(folder) / "proof.engine")
        except UserError as error:
            return {**found, "accepted": False, "refusal": error.message}
    return {**found, "accepted": True}


def run_engine(engine: Artifact, images: Floats) -> Floats:
    """Outputs float32 [N, D] of an engine whose manifest was verified. Raises `UserError` where it cannot run here."""
    target = built_for(engine)
    backend = open_backend(target.backend)
    reason = backend.available()
    if reason is not None:
        raise UserError(
            f"{engine.path.name} is an engine for {engine.manifest.target or 'a device'}. {reason}",
            "ask the ONNX file it was built from, which runs anywhere, or run this on the device",
        )
    return _inferred(backend, engine.path, target, images)


def _inferred(backend: Backend, engine: Path, target: Target, images: Floats) -> Floats:
    with backend.open(engine, target) as session:
        return in_batches(session, images, target.batch.max, target.batch.min)


def _parity(
    engine: Path, model: Artifact, target: Target, backend: Backend, samples: Floats, say: Say
) -> tuple[dict[str, Any] | None, str | None]:
    """What the comparison with ONNX Runtime gave, or the reason why no engine can run on this machine."""
    reason = backend.available()
    if reason is not None:
        return None, reason
    fresh = target.model_copy(update={"require_signature": False})  # nobody can have signed it yet
    try:
        outputs = _inferred(backend, engine, fresh, samples)
    except Misfit as elsewhere:  # RTX builds for GPUs that are not here
        return None, elsewhere.message
    found = compare(run_onnx(model.path, samples), outputs)
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
