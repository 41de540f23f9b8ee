"""`search`: the fastest graph within an accuracy and a latency budget, measured on the back end at hand.

Every measurement is journalled, so that the same command goes on where an interruption stopped it, to the same answer.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from pydantic import ValidationError

from kd2edge.artifact import Artifact, describe, open_artifact
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import compare, run_onnx
from kd2edge.graph.search import WHOLE, decide
from kd2edge.graph.search import search as steps
from kd2edge.progress import Progress, Silent
from kd2edge.report.answer import answer, label
from kd2edge.report.pareto import write_pareto
from kd2edge.run import Run
from kd2edge.schema import Latency, Precision
from kd2edge.schema.search import Budget, Choice, Point, Searched
from kd2edge.verbs import operating, precisions
from kd2edge.verbs.images import Floats, fixed_batch
from kd2edge.verbs.journal import Journal
from kd2edge.verbs.models import inherited
from kd2edge.verbs.subject import IMAGES, Subject, subject
from kd2edge.verbs.trials import LATENCY, Trials

SAMPLES = 128  # images that what was written is run on


def search(
    source: Path,
    max_drop: float,
    max_latency: float | None = None,
    max_ratio: float | None = None,
    target: str | None = None,
    data: Path | None = None,
    images: int = IMAGES,
    preprocess: str | None = None,
    task: str | None = None,
    progress: Progress | None = None,
    latency: Latency = LATENCY,
) -> Searched:
    """The fastest graph of a run's student, or of an ONNX file, within budgets; pareto.json, .html and .md tell all.

    It may lose `max_drop` points of the task's metric, and take `max_latency` ms a batch or `max_ratio` of FP32's time,
    measured by `latency` in turns with FP32, in batches that the model and the target take. Judged by images as for
    `sensitivity`. A graph that is not FP32 is written where `quantize` writes INT8, and a run's ledger has the answer.
    Raises `UserError` as `quantize` does, and where the target's back end is not here.
    """
    progress = progress or Silent()
    budget = _budget(max_drop, max_latency, max_ratio)
    made = subject(source, target, data, images, preprocess, task, progress.say)
    fixed = fixed_batch(made.model)
    latency = latency.model_copy(update={"batch": fixed or max(latency.batch, made.target.batch.min)})
    with made.locked(), tempfile.TemporaryDirectory(prefix="kd2edge-search-") as room:
        journal = Journal(made.folder, {**made.settings(), "backend": made.target.backend})
        trials = Trials(made, open_backend(made.target.backend), journal, Path(room), latency)
        points = _points(made, trials.measure, budget, progress)
        found = _answered(made, points, budget)
        if found.best:
            written = _written(made, found, latency, progress.say)
            found = found.model_copy(update={"file": str(written.path)})
        elif found.best == 0:
            found = found.model_copy(update={"file": str(made.model.path)})
        _tell_older(made, found, progress.say)
        if made.run:
            _record(made.run, made, found)
        page = write_pareto(found, made.folder)
    progress.say(f"Points: {page.with_suffix('.json')}, page: {page}")
    return found


def _budget(max_drop: float, max_latency: float | None, max_ratio: float | None) -> Budget:
    try:
        return Budget(max_drop=max_drop, max_latency=max_latency, max_ratio=max_ratio)
    except ValidationError:
        raise UserError(
            "The budgets are not usable.",
            "--max-drop is 0 or more points; a latency is above 0, and in ms or as a ratio, not both",
        ) from None


def _points(made: Subject, measure: Callable[[Choice], Point], budget: Budget, progress: Progress) -> list[Point]:
    """The points of the search; how many there will be is a guess unless all are tried."""
    names = tuple(made.groups)
    fp16 = "fp16" in made.target.precisions
    total = 2 ** len(names) + fp16 if len(names) <= WHOLE else 2 * len(names) + 2
    progress.start("search", total)

    def told(choice: Choice) -> Point:
        point = measure(choice)
        progress.advance(groups=f"{len(choice.int8)}/{len(names)}", drop=point.drop, ratio=point.ratio)
        return point

    points = steps(names, told, budget, fp16)
    progress.advance(max(0, total - len(points)))
    return points


def _answered(made: Subject, points: list[Point], budget: Budget) -> Searched:
    decision = decide(points, budget)
    found = Searched(
        conditions=made.conditions(),
        budget=budget,
        points=tuple(points),
        front=decision.front,
        best=decision.best,
        accurate=decision.accurate,
        fast=decision.fast,
        answer="",
    )
    return found.model_copy(update={"answer": answer(found)})


def _written(made: Subject, found: Searched, latency: Latency, say: Callable[[str], None]) -> Artifact:
    """The best graph as a file with a manifest, opened again and run."""
    assert found.best is not None
    point = found.points[found.best]
    precision: Precision = "int8" if point.choice.int8 else "fp16"
    path = _place(made, precision)
    if path.is_file():
        say(f"{path} is replaced.")
    save_model(made.graph(point.choice), path)
    samples = _samples(made)
    parity = compare(run_onnx(made.model.path, samples), run_onnx(path, samples))
    written = describe(
        path,
        kind="onnx",
        role=precision,
        verb="search",
        parents=(made.model.manifest.sha256,),
        precision=precision,
        flavour=made.target.flavour if point.choice.int8 else None,
        target=made.target_name,
        parity={"against": "fp32", "images": len(samples), **dataclasses.asdict(parity)},
        details={**_details(made, point, found, latency), **operating.kept(made.model)},
        versions={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        **inherited(made.model),
    )
    open_artifact(path)
    say(f"{path.name}: cosine to FP32 {parity.cosine_mean:.4f} on average, {parity.cosine_min:.4f} at worst.")
    return made.run.add(written, "search") if made.run else written


def _samples(made: Subject) -> Floats:
    """Images [N, C, H, W] to run a file on: whole groups of the model's batch, begun anew where there are too few."""
    group = fixed_batch(made.model) or 1
    size = max(group, SAMPLES // group * group)
    images = next(made.judge.batches(size))
    whole = max(group, len(images) // group * group)
    return np.resize(images, (whole, *images.shape[1:]))


def _tell_older(made: Subject, found: Searched, say: Callable[[str], None]) -> None:
    """INT8 of an earlier verb is not touched by an answer without INT8, and those who look for INT8 still find it."""
    older = _place(made, "int8")
    if older.is_file() and str(older) != found.file:
        who = "bench, gate and ship --resume go" if made.run else "bench and gate go"
        say(f"{older} is not of this answer, and stays: {who} on with it.")


def _record(run: Run, made: Subject, found: Searched) -> None:
    file = Path(found.file).resolve().relative_to(run.path.resolve()) if found.file else None
    told = {"best": label(found, found.points[found.best]) if found.best is not None else None}
    run.record("search", "finished", target=made.target_name, answer=found.answer, file=file and str(file), **told)


def _place(made: Subject, precision: Precision) -> Path:
    if made.run:
        return precisions.in_run(made.run, precision, made.target.flavour)
    return precisions.beside(made.model.path, precision, made.target.flavour)


def _details(made: Subject, point: Point, found: Searched, latency: Latency) -> dict[str, Any]:
    """What `quantize` tells of its files, and the search besides."""
    told: dict[str, Any] = {
        "seed": made.seed,
        "search": {
            "budget": found.budget.model_dump(),
            "measured": point.model_dump(exclude_none=True),
            "points": len(found.points),
            "latency": latency.model_dump(),
            "judged_by": made.judge.told,
        },
    }
    if point.choice.int8:
        quantized = made.quantized(point.choice)
        told |= {
            "weight_bits": quantized.bits,
            "calibrator": quantized.calibrator,
            "corrects_bias": quantized.corrects_bias,
            "images": quantized.images,
            "held_out": quantized.held_out,
            "calibration": {"errors_of_int8_in_all_groups": dict(quantized.errors)},
            "coverage": dataclasses.asdict(quantized.coverage),
            "kept_in_float": dict(quantized.kept),
            "float_groups": [name for name in made.groups if name not in point.choice.int8],
        }
    return told
