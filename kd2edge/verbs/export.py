"""`export`: the files that ship, one for each precision of a target, none without a proof of parity on real images."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from kd2edge import drawers, signing
from kd2edge.artifact import Artifact, describe, manifest_path, open_artifact, signature_path
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.parity import compare, require, run_onnx
from kd2edge.graph.signature import set_dynamic_batch
from kd2edge.graph.topology import opset
from kd2edge.progress import Progress, Silent
from kd2edge.run import Run, open_run
from kd2edge.schema import Precision, Target
from kd2edge.verbs import operating, precisions
from kd2edge.verbs.engines import build_engine, engine_builder, judged, target_of
from kd2edge.verbs.images import Floats, completed, data_for, open_data, probe_of, test_samples
from kd2edge.verbs.models import GIVEN, Say, inherited, is_run, open_model, refuse_for_a_run
from kd2edge.verbs.quantize import DEFAULT_TARGET

# Builds engines of ONNX files for a target, by name, on another machine, and compares them with the files on samples
# float32 [N, C, H, W]; where the back end takes ONNX files these are compared, and nothing is made.
Elsewhere = Callable[[list[Artifact], str, Target, Floats], list[Artifact]]


@dataclass(frozen=True)
class Job:
    """One export. On `samples`, float32 [N, C, H, W], the FP32 graph has to give `reference`: what its source gives, in
    a run torch. `place` says where a file of a precision goes, `int8` is where its INT8 would be, `enter` records.
    """

    name: str
    target: Target
    fp32: Artifact
    samples: Floats
    reference: Floats
    place: Callable[[Precision], Path]
    int8: Path
    enter: Callable[[Artifact], Artifact]
    quantize: str
    say: Say


def export(
    source: Path,
    onnx: bool = False,
    trt: bool = False,
    target: str | None = None,
    out: Path | None = None,
    data: Path | None = None,
    preprocess: str | None = None,
    task: str | None = None,
    progress: Progress | None = None,
    elsewhere: Elsewhere | None = None,
    sign: str | None = None,
) -> list[Artifact]:
    """The `onnx` file of each precision of `target` (the default), or with `trt` the engine built from each, or both.

    Engines need the ONNX files, so these are made in any case. A run keeps its files, and `out` gets copies of what
    was asked for; those of an ONNX file lie beside it, or in `out`. `elsewhere` builds, or proves the ONNX files, on
    another machine; `sign` is the key to sign with. Raises `UserError` if FP32 or FP16 fails parity, if the target
    cannot read a graph, and for `trt` if the target has no engines or their builder is missing or refuses.
    """
    progress = progress or Silent()
    if trt and target is None:
        target = target_of(source)
        progress.say(f"Engines for the target {target} (--target for another).")
    if is_run(source):
        refuse_for_a_run(data=data, preprocess=preprocess, task=task)
        run = open_run(source)
        with run.lock():
            return export_run(run, target or run.recipe.target, onnx, trt, out, progress, elsewhere, sign)
    model = open_model(source, preprocess, progress.say)
    images = data_for(model, data)
    model = completed(model, images, open_data(images), task)
    return _exported(_model_job(model, target or DEFAULT_TARGET, out, progress.say), onnx, trt, out, elsewhere, sign)


def export_run(
    run: Run,
    target: str,
    onnx: bool,
    trt: bool,
    out: Path | None,
    progress: Progress,
    elsewhere: Elsewhere | None = None,
    sign: str | None = None,
) -> list[Artifact]:
    """`export` for a run that is locked already."""
    job = _run_job(run, target, progress.say)
    made = _exported(job, onnx, trt, out, elsewhere, sign)
    run.record("export", "finished", target=target, files=precisions.digests(run, job.target))
    return made


def _run_job(run: Run, name: str, say: Say) -> Job:
    target, fp32 = drawers.read_target(name), run.artifact("fp32")
    known = probe_of(fp32)
    return Job(
        name=name,
        target=target,
        fp32=fp32,
        samples=known["inputs"],
        reference=known["reference"],
        place=lambda precision: precisions.in_run(run, precision, target.flavour),
        int8=precisions.in_run(run, "int8", target.flavour),
        enter=lambda artifact: run.add(artifact, "export"),
        quantize=shlex.join(["kd2edge", "quantize", str(run.path), "--target", name]),
        say=say,
    )


def _model_job(model: Artifact, name: str, out: Path | None, say: Say) -> Job:
    target = drawers.read_target(name)
    samples = test_samples(model, open_data(data_for(model, None)))
    in_out = precisions.beside(model.path, "int8", target.flavour, out)
    return Job(
        name=name,
        target=target,
        fp32=model,
        samples=samples,
        reference=run_onnx(model.path, samples),
        place=lambda precision: precisions.beside(model.path, precision, target.flavour, out),
        int8=in_out if in_out.is_file() else precisions.beside(model.path, "int8", target.flavour),
        enter=lambda artifact: artifact,
        quantize=shlex.join(["kd2edge", "quantize", str(model.path), "--target", name]),
        say=say,
    )


def _exported(
    job: Job, onnx: bool, trt: bool, out: Path | None, elsewhere: Elsewhere | None = None, sign: str | None = None
) -> list[Artifact]:
    stated = job.fp32.manifest.precision
    if stated != "fp32":
        raise UserError(f"{job.fp32.path} is {stated.upper()} already.", "export the FP32 model it was made from")
    backend = engine_builder(job.name, job.target) if trt and elsewhere is None else None
    fp32 = _fp32(job)
    files = list(_precisions(job, fp32))
    if not trt:
        files = [judged(one, job.name, job.target, job.say) for one in files]
    made = files if onnx or not trt else []
    if elsewhere is not None:
        engines = elsewhere(files, job.name, job.target, job.samples)
        made = made + [job.enter(engine) for engine in engines]
    elif backend is not None:
        engines = [build_engine(one, job.name, job.target, backend, job.samples, job.say) for one in files]
        made = made + [job.enter(engine) for engine in engines]
    for artifact in made if sign else ():
        signing.sign(artifact, str(sign))
    return [_copied(artifact, out) for artifact in made] if out else made


def _precisions(job: Job, fp32: Artifact) -> Iterator[Artifact]:
    yield fp32
    if "fp16" in job.target.precisions:
        yield _fp16(job, fp32)
    if "int8" in job.target.precisions and (int8 := _int8(job, fp32)) is not None:
        yield int8


def _fp32(job: Job) -> Artifact:
    """Our own FP32 graph as it is; a foreign one rewritten with a free batch and an opset from 13 on."""
    model, free = set_dynamic_batch(load_model(job.fp32.path))
    if opset(model) > job.target.opset:
        raise UserError(
            f"{job.fp32.path} has opset {opset(model)}, but the target {job.name} reads up to {job.target.opset}.",
            f"export the model again with opset {job.target.opset}",
        )
    if not free:
        job.say(f"The batch of {job.fp32.path.name} is fixed at 1 and cannot be freed: images run one by one.")
    if job.fp32.manifest.verb == GIVEN:
        return _written(job, "fp32", model, job.reference)
    _proved(job, "fp32", job.fp32.path, job.reference)
    return job.fp32


def _fp16(job: Job, fp32: Artifact) -> Artifact:
    return _written(job, "fp16", to_fp16(load_model(fp32.path), [job.samples]), run_onnx(fp32.path, job.samples))


def _int8(job: Job, fp32: Artifact) -> Artifact | None:
    """The INT8 that `quantize` has made of this very model, or None, which is told."""
    path = job.int8
    found = open_artifact(path) if path.is_file() else None
    if found is None or job.fp32.manifest.sha256 not in found.manifest.parents:
        state = "There is no INT8 of this model" if found is None else f"{path.name} was made of another model"
        job.say(f"{state} for the target {job.name}: {job.quantize}")
        return None
    _proved(job, "int8", path, run_onnx(fp32.path, job.samples))
    return found


def _written(job: Job, precision: Precision, model: ModelProto, reference: Floats) -> Artifact:
    path = job.place(precision)
    save_model(model, path)
    fields = inherited(job.fp32)
    made = describe(
        path,
        kind="onnx",
        role=precision,
        verb="export",
        parents=(job.fp32.manifest.sha256,),
        precision=precision,
        target=job.name,
        parity=_proved(job, precision, path, reference),
        details=operating.kept(job.fp32),
        **fields,
    )
    return job.enter(made)


def _proved(job: Job, precision: Precision, path: Path, reference: Floats) -> dict[str, Any]:
    """Compare the file at `path`, as written, with `reference` [N, D] on the samples.

    Raises `UserError` if FP32 or FP16 differs too much; of INT8 it is told, since to judge it is the gate's business.
    """
    parity = compare(reference, run_onnx(path, job.samples))
    try:
        require(parity, precision)
    except UserError as alarm:
        if precision != "int8":
            raise
        job.say(alarm.message)
    job.say(
        f"{path.name}: cosine {parity.cosine_mean:.6f} (at worst {parity.cosine_min:.6f}), relative error at most "
        f"{parity.max_abs_relative:.1e} on {len(job.samples)} images."
    )
    against = "its source" if precision == "fp32" else "fp32"
    return {"against": against, "images": len(job.samples), **dataclasses.asdict(parity)}


def _copied(artifact: Artifact, folder: Path) -> Artifact:
    """The artefact in `folder`, with its manifest and, where there is one, its signature."""
    path = folder / artifact.path.name
    if path.resolve() == artifact.path.resolve():
        return artifact
    write_atomic(path, artifact.path.read_bytes())
    write_atomic(manifest_path(path), manifest_path(artifact.path).read_bytes())
    signature_path(path).unlink(missing_ok=True)
    if signature_path(artifact.path).is_file():
        write_atomic(signature_path(path), signature_path(artifact.path).read_bytes())
    return Artifact(path, artifact.manifest)
