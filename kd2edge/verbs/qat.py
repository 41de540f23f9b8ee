"""`quantize --qat`: a run's student trained on in INT8, by its own method and with its teacher attached."""

import dataclasses
from pathlib import Path

from kd2edge.artifact import Artifact
from kd2edge.errors import UserError
from kd2edge.progress import Progress, Silent
from kd2edge.run import Run, open_run
from kd2edge.schema import Qat
from kd2edge.verbs import precisions
from kd2edge.verbs.distill import require_torch
from kd2edge.verbs.images import open_data, probe_of
from kd2edge.verbs.models import is_run
from kd2edge.verbs.quantize import calibrated, int8_target, written


def qat(source: Path, target: str | None = None, progress: Progress | None = None) -> Artifact:
    """The INT8 of a run, for the flavour of `target`, trained by the recipe's `qat` section or by its defaults.

    It takes the place of the one that calibration alone would make. Raises `UserError` for an ONNX file, which has no
    teacher, no method and no schedule, and as `distill` and `quantize` do.
    """
    require_torch()
    if not is_run(source):
        raise UserError(f"{source} is no run, so nothing says how it was trained.", "leave --qat out, or name a run")
    run = open_run(source)
    with run.lock():
        return qat_run(run, target or run.recipe.target, progress or Silent())


def qat_run(run: Run, target: str, progress: Progress) -> Artifact:
    """`qat` for a run that is locked already."""
    require_torch()
    from kd2edge.kd.qat import schedule, train

    recipe = run.recipe
    out = precisions.in_run(run, "int8", int8_target(target).flavour)
    model = run.artifact("fp32")
    start = calibrated(model, open_data(recipe.data), recipe.quantize, recipe.seed, target, progress.say)
    samples = probe_of(model)["inputs"]
    made = train(recipe, run, start, samples, progress)
    plan = schedule(recipe.train, recipe.qat or Qat())
    trained = {"epochs": plan.epochs, "lr": plan.lr, "against_torch": dataclasses.asdict(made.parity)}
    details = {"seed": recipe.seed, "qat": trained}
    return run.add(written(made.int8, model, samples, details, target, out, progress.say), "quantize")
