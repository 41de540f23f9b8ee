"""`study`: rows of methods times seeds, each cell a run, its result written as it finishes; the table comes of those.

A cell whose result is there is passed over, so a study goes on over days, in several processes at once if one likes.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from kd2edge import drawers, shelves
from kd2edge.edge.session import open_backend
from kd2edge.errors import Faults, UserError
from kd2edge.progress import Progress, Silent
from kd2edge.report.study import Summary
from kd2edge.verbs.cells import Cell, Plan, claimed, open_plan
from kd2edge.verbs.distill import require_torch
from kd2edge.verbs.study_cell import work
from kd2edge.verbs.study_table import tabled

WAIT_SECONDS = 10.0
ENDED = ("done", "failed")


def study(
    name: str,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    runs: Path | None = None,
    results: Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Do what is missing of a study, all of it or some `rows` and `seeds`, and return its table.

    First the trials of a search, then the rows seed by seed. A cell that another process works on is left to it; one
    that fails is told and passed over. Raises `UserError` for a faulty study or a target that cannot be measured here,
    before anything is trained, and at the end for the cells that failed.
    """
    progress = progress or Silent()
    plan = open_plan(name, runs, results)
    wanted = _wanted(plan, rows, seeds)
    _ready(plan)
    tried: dict[Cell, UserError | None] = {}
    while _pass(plan, wanted, tried, progress):
        pass
    faults = [f"{cell}: {fault.message}" for cell, fault in tried.items() if fault] + _undecided(plan, wanted)
    if faults:
        raise Faults(f"The study {plan.name}", faults, "what is done is kept; the same command tries the rest again")
    return tabled(plan)


def _undecided(plan: Plan, cells: Collection[Cell]) -> list[str]:
    """The rows whose trials are all done and have given nothing to choose by."""
    ended = {cell.row: True for cell in cells}
    for trial in plan.trials():
        ended[trial.row] = ended.get(trial.row, False) and plan.state(trial) in ENDED
    rows = [row for row, all_done in ended.items() if all_done and plan.chosen(row) is None]
    return [f"{row}: none of its trials has a {plan.study.metric}" for row in rows]


def _wanted(plan: Plan, rows: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The cells of the rows and seeds asked for, in the order in which they are worked on."""
    for row in rows:
        if row not in plan.study.rows:
            near = shelves.nearest(row, list(plan.study.rows))
            raise UserError(f"The study has no row {row!r}{near}.", f"rows: {', '.join(plan.study.rows)}")
    unknown = [seed for seed in seeds if seed not in plan.study.seeds]
    if unknown:
        known = ", ".join(map(str, plan.study.seeds))
        raise UserError(f"The study has no seed {unknown[0]}.", f"seeds: {known}")
    cells = [*plan.trials(), *(cell for cell in plan.seeds() if not seeds or cell.seed in seeds)]
    return [cell for cell in cells if not rows or cell.row in rows]


def _ready(plan: Plan) -> None:
    """Raise `UserError` for what is wrong with any cell or with this machine: now, not after hours of training."""
    require_torch()
    from kd2edge.kd.check import plugin_faults

    for cell in [*plan.trials(), *plan.seeds()]:
        drawers.read_suite(plan.suite(cell))
        overrides = plan.overrides(cell)
        if overrides is not None:
            drawers.read_recipe(plan.study.recipe, overrides, plugin_faults)
    for target in {plan.study.target, *(plan.target(cell) for cell in plan.seeds())}:
        fault = open_backend(drawers.read_target(target).backend).available()
        if fault is not None:
            raise UserError(f"The target {target} cannot be measured here: {fault}")


def _pass(plan: Plan, cells: Collection[Cell], tried: dict[Cell, UserError | None], progress: Progress) -> bool:
    """Work once through the cells that were not tried yet; whether another pass may find something to do."""
    worked, held, waiting = False, False, False
    for cell in cells:
        state = plan.state(cell)
        if cell in tried or state in ENDED:
            continue
        if plan.recipe(cell) is None:
            waiting = True
            continue
        with claimed(plan, cell) as mine:
            held |= not mine
            if mine and plan.state(cell) not in ENDED:
                worked = True
                tried[cell] = _attempt(plan, cell, progress)
    if not worked and waiting and held:
        time.sleep(WAIT_SECONDS)  # for trials that another process is at
        return True
    return worked


def _attempt(plan: Plan, cell: Cell, progress: Progress) -> UserError | None:
    """Do a cell; the fault that it failed by."""
    cells = [*plan.trials(), *plan.seeds()]
    done = sum(plan.state(other) in ENDED for other in cells)
    progress.say(f"{plan.name}: {cell} ({done} of {len(cells)} cells done)")
    try:
        work(plan, cell, progress)
    except UserError as fault:
        progress.say(f"{plan.name}: {cell} failed: {fault}")
        return fault
    return None
