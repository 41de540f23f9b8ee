"""`quantize`: static post-training quantization of a run's student or of any ONNX file, in the target's flavour."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import onnx
import onnxruntime

from kd2edge import drawers
from kd2edge.artifact import Artifact, describe
from kd2edge.data import Source
from kd2edge.errors import UserError
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.parity import Parity, compare, run_onnx
from kd2edge.graph.quantize import Calibrated, Quantized, Remedies, calibrate_model
from kd2edge.graph.scales import has_vnni
from kd2edge.progress import Progress, Silent
from kd2edge.run import Run, open_run
from kd2edge.schema import Quantize, Target
from kd2edge.schema.quantize import Calibrator
from kd2edge.verbs import operating, precisions
from kd2edge.verbs.images import (
    Floats,
    completed,
    data_for,
    open_data,
    probe_of,
    test_samples,
    training_batches,
)
from kd2edge.verbs.models import Say, inherited, is_run, open_model, refuse_for_a_run

DEFAULT_TARGET = "onnx-cpu"


def quantize(
    source: Path,
    target: str | None = None,
    data: Path | None = None,
    calibrator: str | None = None,
    out: Path | None = None,
    preprocess: str | None = None,
    task: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """INT8 of a run or of an ONNX file, calibrated on training images, for the flavour of `target`.

    A run has its images, its number of them and its seed in its recipe. An ONNX file is calibrated on `data`, a
    folder of class folders under train/, unless its manifest names a data set; without a manifest `preprocess` states
    how pixels become its input (`models.CONVENTIONS`), and `task` whether its outputs are an embedding ("verification")
    or logits ("classification", the default). The target defaults to the run's own, then to "onnx-cpu".
    Raises `UserError` for a target without INT8, a model that is quantized already, and missing or unusable images.
    """
    progress = progress or Silent()
    if is_run(source):
        refuse_for_a_run(data=data, out=out, preprocess=preprocess, task=task)
        run = open_run(source)
        with run.lock():
            return quantize_run(run, target or run.recipe.target, calibrator, progress)
    model = open_model(source, preprocess, progress.say)
    images = data_for(model, data)
    model = completed(model, images, open_data(images), task)
    name = target or DEFAULT_TARGET
    aim = int8_target(name)
    path = out or precisions.beside(source, "int8", aim.flavour)
    plan = _plan(Quantize(), calibrator)
    return _quantized(model, plan, 0, name, path, None, progress.say)


def quantize_run(run: Run, target: str, calibrator: str | None, progress: Progress) -> Artifact:
    """`quantize` for a run that is locked already."""
    recipe = run.recipe
    path = precisions.in_run(run, "int8", int8_target(target).flavour)
    plan = _plan(recipe.quantize, calibrator)
    model = run.artifact("fp32")
    samples = probe_of(model)["inputs"]
    return run.add(_quantized(model, plan, recipe.seed, target, path, samples, progress.say), "quantize")


def _quantized(
    model: Artifact, plan: Quantize, seed: int, target: str, out: Path, samples: Floats | None, say: Say
) -> Artifact:
    source = open_data(data_for(model, None))
    made = calibrated(model, source, plan, seed, target, say).quantized()
    samples = test_samples(model, source) if samples is None else samples
    return written(made, model, samples, {"seed": seed}, target, out, say)


def calibrated(model: Artifact, source: Source, plan: Quantize, seed: int, target: str, say: Say) -> Calibrated:
    """A model with the ranges of so many training images, drawn by `seed`, in the flavour of `target`."""
    batches = training_batches(model, source, plan.images, seed, say)
    flavour = int8_target(target).flavour
    say(f"Calibrating {model.path.name} on {len(batches)} images ({plan.calibrator}, {flavour}).")
    remedies = Remedies(plan.equalize, plan.correct_bias, plan.keep)
    reduce_range = flavour == "ort-x86" and not has_vnni()
    return calibrate_model(load_model(model.path), batches, flavour, plan.calibrator, reduce_range, remedies=remedies)


def written(
    made: Quantized, model: Artifact, samples: Floats, details: dict[str, Any], target: str, out: Path, say: Say
) -> Artifact:
    """The INT8 of `model` as a file with its manifest, run on `samples` [N, C, H, W] as it was written, and told."""
    save_model(made.model, out)
    parity = compare(run_onnx(model.path, samples), run_onnx(out, samples))
    _tell(made, parity, model.manifest.output, say)
    return describe(
        out,
        kind="onnx",
        role="int8",
        verb="quantize",
        parents=(model.manifest.sha256,),
        precision="int8",
        flavour=made.flavour,
        target=target,
        parity={"against": "fp32", "images": len(samples), **dataclasses.asdict(parity)},
        details={**_details(made), **details, **operating.kept(model)},
        versions={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        **inherited(model),
    )


def _details(made: Quantized) -> dict[str, Any]:
    coverage = dataclasses.asdict(made.coverage)
    return {
        "weight_bits": made.bits,
        "calibrator": made.calibrator,
        "corrects_bias": made.corrects_bias,
        "images": made.images,
        "held_out": made.held_out,
        "errors": dict(made.errors),
        "coverage": coverage,
        "kept_in_float": dict(made.kept),
    }


def _tell(made: Quantized, parity: Parity, output: str | None, say: Say) -> None:
    coverage = made.coverage
    share = 100 * coverage.macs / coverage.all_macs
    say(f"INT8 holds {coverage.layers} of {coverage.all_layers} layers and {share:.1f} % of the multiplications.")
    if made.errors:
        tried = ", ".join(f"{name} {error:.2g}" for name, error in made.errors.items())
        chosen = f"{made.calibrator}{' with corrected biases' if made.corrects_bias else ''}"
        say(f"Chosen: {chosen}. 1 - cosine of the output on {made.held_out} held-out images: {tried}.")
    for node, reason in made.kept.items():
        say(f"  {node} stays in float: {reason}")
    say(f"Against FP32: cosine {parity.cosine_mean:.4f} on average, {parity.cosine_min:.4f} at worst.")
    if output == "logits":
        say(f"The same class as FP32 on {100 * parity.argmax_agreement:.1f} % of the images.")


def _plan(stated: Quantize, calibrator: str | None) -> Quantize:
    if calibrator is None:
        return stated
    if calibrator not in get_args(Calibrator):
        raise UserError(f"There is no calibrator {calibrator!r}.", f"one of {', '.join(get_args(Calibrator))}")
    return stated.model_copy(update={"calibrator": calibrator})


def int8_target(name: str) -> Target:
    """The target of that name. Raises `UserError` for one without INT8."""
    target = drawers.read_target(name)
    if "int8" not in target.precisions:
        raise UserError(f"The target {name} has no INT8.", "kd2edge list targets")
    return target
