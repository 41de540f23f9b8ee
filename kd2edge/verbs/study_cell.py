"""One cell of a study: trained, quantized and measured in its run directory, its result written into the table's."""

import json
import os
import time
from pathlib import Path

from kd2edge import drawers
from kd2edge import run as runs
from kd2edge.errors import Diverged, UserError
from kd2edge.files import write_atomic
from kd2edge.progress import Progress
from kd2edge.report import figures
from kd2edge.report.model import Report, Row, write_json
from kd2edge.report.study import Result, Training
from kd2edge.run import Run
from kd2edge.schema import Recipe
from kd2edge.verbs.bench import bench_run
from kd2edge.verbs.cells import Cell, Plan, trains_alike
from kd2edge.verbs.distill import anchored, train
from kd2edge.verbs.ship import int8_run, quantized, trained

FACES = ("pairs", "pair_thresholds", "flip", "fp32_threshold", "fp32_pair_threshold", "subgroups")
MACHINE = "machine.json"
KEPT_CONDITIONS = ("threads", "data", "classes", "genuine_pairs", "impostor_pairs", "thresholds", *FACES)


def work(plan: Plan, cell: Cell, progress: Progress) -> Result:
    """Do a cell, from where its run was left, and write its result; the teacher's too where that is not there yet.

    A loss that is not finite is a result as well: the settings are at fault, and would be again. Raises `UserError` as
    the steps do otherwise, and where the run was begun, and not finished, with other settings.
    """
    recipe = plan.recipe(cell)
    assert recipe is not None, f"{cell} waits for trials"
    run = _run(plan, cell, recipe, progress)
    with run.lock():
        try:
            report = _made(plan, cell, recipe, run, progress)
        except Diverged as fault:
            result = _result(plan, cell, recipe).model_copy(update={"fault": fault.message})
            progress.say(f"{plan.name}: {cell} failed for good: {fault.message}")
        else:
            if report.row("teacher"):
                write_json(_measured(_result(plan, cell, recipe), report, ("teacher",)), plan.teacher_path)
            result = _measured(_result(plan, cell, recipe), report, ("fp32", "int8"))
            result = result.model_copy(update={"training": took(run)})
    write_json(result, plan.result_path(cell))
    return result


def _made(plan: Plan, cell: Cell, recipe: Recipe, run: Run, progress: Progress) -> Report:
    """Train, quantize and measure what of the cell is not done yet; a trial has no INT8 and no teacher to report."""
    target = plan.target(cell)
    int8 = cell.trial is None and "int8" in drawers.read_target(target).precisions
    if not trained(run):
        _note_machine(run)
        train(run, progress)
    if int8 and not quantized(run, target):
        int8_run(run, target, progress)
    teacher = cell.trial is None and "teacher" in run.files("onnx") and plan.teacher() is None
    roles = ["teacher"] * (teacher and plan.has_its_teacher(recipe)) + ["fp32"] + ["int8"] * int8
    report = bench_run(run, plan.suite(cell), target, None, progress, roles)
    faults = [f"{row.role}: {fault}" for row in report.rows for fault in row.faults]
    if faults:
        raise UserError(f"It could not be measured ({'; '.join(faults)}).", f"kd2edge bench {run.path}")
    return report


def _note_machine(run: Run) -> None:
    """Keep what the training begins on, beside its log; a resumed one began before."""
    from kd2edge.kd.devices import threads

    path = run.path / "log" / MACHINE
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"threads": threads(), "load": round(os.getloadavg()[0], 2)}).encode())


def took(run: Run) -> Training | None:
    """What training the student took, None of a run that no study has begun."""
    path = run.path / "log" / MACHINE
    if not path.exists():
        return None
    lines = [json.loads(line) for line in (run.path / "log" / "fp32.jsonl").read_text().splitlines()]
    images, seconds = sum(line["images"] for line in lines), sum(line["seconds"] for line in lines)
    return Training(images=images, seconds=round(seconds, 3), **json.loads(path.read_bytes()))


def _run(plan: Plan, cell: Cell, recipe: Recipe, progress: Progress) -> Run:
    """The cell's run, new or as it was left. A finished one of other settings is kept under another name."""
    path = plan.run_path(cell)
    if not (path / runs.RECIPE).is_file():
        return runs.create(path, anchored(recipe), resume=True)
    run = Run(path)
    if trains_alike(run.recipe, anchored(recipe)):
        return run
    if not trained(run):
        raise UserError(
            f"{path} was begun with other settings than the study has now.",
            "give the study its settings back to finish it, or move the directory away",
        )
    kept = path.with_name(f"{path.name}-until-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    path.rename(kept)
    progress.say(f"{path} was made with other settings: it is now {kept}")
    return runs.create(path, anchored(recipe), resume=True)


def _result(plan: Plan, cell: Cell, recipe: Recipe) -> Result:
    """The cell's result before anything was measured."""
    only = "" if cell.trial is not None else f" --seed {cell.seed}"
    return Result(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=f"kd2edge study {plan.name} --row {cell.row}{only}",
        row=cell.row,
        seed=cell.seed,
        trial=cell.trial,
        recipe=recipe.model_dump(mode="json"),
        suite=Path(plan.suite(cell)).stem,
        target=Path(plan.target(cell)).stem,
    )


def _measured(result: Result, report: Report, roles: tuple[str, ...]) -> Result:
    rows = tuple(_kept(row) for row in report.rows if row.role in roles)
    return result.model_copy(update={"device": report.device, "versions": report.versions, "rows": rows})


def _kept(row: Row) -> Row:
    """A row without its latency, which others may have been trained beside, without series and the run's place."""
    numbers = {name: number for name, number in row.numbers.items() if figures.kind(name) != "speed"}
    conditions = {name: value for name, value in row.conditions.items() if name in KEPT_CONDITIONS}
    bare = {"traces": {}, "comparisons": (), "file": Path(row.file).name}
    return row.model_copy(update={"numbers": numbers, "conditions": conditions, **bare})
