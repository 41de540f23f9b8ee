"""The latency of a study's rows: one finished seed each, all files side by side, once no cell trains any more.

Cells are measured while others train, so what they say of time is worth nothing.
"""

from pathlib import Path

from kd2edge import drawers
from kd2edge.artifact import Artifact
from kd2edge.errors import UserError
from kd2edge.progress import Progress, Silent
from kd2edge.report.model import Row, write_json
from kd2edge.report.study import Result, Summary
from kd2edge.run import Run
from kd2edge.verbs.bench import Items, measured, run_items
from kd2edge.verbs.cells import Cell, Plan, open_plan
from kd2edge.verbs.study_table import tabled

BUSY = 0.5  # processes that run beside this one, on average over a minute
CONDITIONS = ("threads", "rounds", "round_medians_ms", "iqr_over_p50", "unstable")


def latency(
    name: str, runs: Path | None = None, results: Path | None = None, progress: Progress | None = None
) -> Summary:
    """Measure what runs there are of a study by its recipe's suite, write latency.json and return the table.

    Raises `UserError` where no row has a finished cell whose run is here.
    """
    progress = progress or Silent()
    plan = open_plan(name, runs, results)
    rows = [name for name, row in plan.study.rows.items() if row.target in (None, plan.study.target)]
    items = [item for row in rows for item in _of_row(plan, row, progress)]
    if not items:
        raise UserError(f"No row of {plan.name} has a finished run in {plan.runs}.", f"kd2edge study {plan.name}")
    recipe = drawers.read_recipe(plan.study.recipe)
    items = [*_teacher(plan), *items]
    command = f"kd2edge study {plan.name} --latency"
    report = measured(items, recipe.data, recipe.suite, plan.study.target, command, progress, accuracy=False)
    load = report.device.get("load")
    if load is not None and load > BUSY:
        progress.say(f"This machine was busy (load {load}): do not quote these latencies, measure again in quiet.")
    write_json(report.model_copy(update={"rows": tuple(map(_kept, report.rows))}), plan.latency_path)
    return tabled(plan)


def _of_row(plan: Plan, row: str, progress: Progress) -> Items:
    """The files of the row's first finished seed whose run is here and holds what was measured."""
    for cell in (cell for cell in plan.seeds() if cell.row == row and plan.state(cell) == "done"):
        found = _of_run(plan, cell, plan.result(cell))
        if found:
            return [(f"{row}.{role}", item) for role, item in found.items()]
    progress.say(f"{row}: no finished run is here, so its latency is not measured")
    return []


def _teacher(plan: Plan) -> Items:
    """The teacher's file, from any run that holds the one that was measured."""
    result = plan.teacher()
    runs = (_of_run(plan, cell, result) for cell in plan.seeds() if plan.state(cell) == "done")
    return next(([("teacher.fp32", found["teacher"])] for found in runs if found), [])


def _of_run(plan: Plan, cell: Cell, result: Result | None) -> dict[str, Artifact]:
    """Role → file of a cell's run, if all that a result tells of are there; else nothing."""
    run = Run(plan.run_path(cell))
    items = dict(run_items(run, drawers.read_target(plan.study.target)))
    wanted = {row.role: row.sha256 for row in result.rows} if result else {}
    digests = {role: item.manifest.sha256 for role, item in items.items() if item.path.is_file()}
    there = all(digests.get(role) == digest for role, digest in wanted.items())
    return {role: items[role] for role in wanted} if there else {}


def _kept(row: Row) -> Row:
    """A row without the run's place; its accuracy is in the cells' results."""
    conditions = {name: value for name, value in row.conditions.items() if name in CONDITIONS}
    return row.model_copy(update={"conditions": conditions, "file": Path(row.file).name})
