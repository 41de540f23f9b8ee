"""The cells of a study: which there are, the recipe of each, where its run and its result lie, and how far it is."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from kd2edge import drawers
from kd2edge.report.study import Result, read_result
from kd2edge.schema import Overrides, Recipe, Study

State = Literal["done", "failed", "stale", "missing", "waiting"]
UNTRAINED_BY = {"about", "suite", "target"}  # keys of a recipe that change nothing of what is trained


@dataclass(frozen=True)
class Cell:
    """One training: a row with a seed, or one of the row's trials."""

    row: str
    seed: int
    trial: int | None = None

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}" if self.trial is None else f"{self.row}, trial {self.trial}"


@dataclass(frozen=True)
class Plan:
    """A study with its places: `runs` and `results` are its own folders.

    `read` remembers recipes by their overrides: a YAML that changes while a process works does not change that work.
    """

    name: str
    study: Study
    runs: Path
    results: Path
    read: dict[tuple[str, ...], Recipe] = field(default_factory=dict, repr=False, compare=False)

    def trials(self) -> list[Cell]:
        seed = self.study.search.seed if self.study.search else 0
        rows = self.study.rows.items()
        return [Cell(name, seed, trial) for name, row in rows for trial in range(len(row.trials))]

    def seeds(self) -> list[Cell]:
        """All rows of the first seed, then all of the next: the table is of use early."""
        return [Cell(row, seed) for seed in self.study.seeds for row in self.study.rows]

    def run_path(self, cell: Cell) -> Path:
        trial = self.runs / "search" / f"{cell.row}-{cell.trial}"
        return self.runs / f"{cell.row}-{cell.seed}" if cell.trial is None else trial

    def result_path(self, cell: Cell) -> Path:
        trial = self.results / "search" / f"{cell.row}-{cell.trial}.json"
        return self.results / cell.row / f"seed-{cell.seed}.json" if cell.trial is None else trial

    @property
    def teacher_path(self) -> Path:
        return self.results / "teacher.json"

    @property
    def latency_path(self) -> Path:
        return self.results / "latency.json"

    def target(self, cell: Cell) -> str:
        """What the cell's files are made for and measured as."""
        return self.study.rows[cell.row].target or self.study.target

    def suite(self, cell: Cell) -> str:
        """The suite that the cell is measured by; a result keeps the stem of its file."""
        return self.study.search.suite if self.study.search and cell.trial is not None else self.study.suite

    def overrides(self, cell: Cell) -> tuple[str, ...] | None:
        """What makes the cell's recipe of the study's, as `--set` takes it; None while its row has trials to do."""
        study, row = self.study, self.study.rows[cell.row]
        settings = self.chosen(cell.row) if cell.trial is None else row.trials[cell.trial]
        if settings is None:
            return None
        searching = study.search.set if study.search and cell.trial is not None else {}
        method = {"name": row.method.name, **row.method.options}
        fixed = {"seed": cell.seed, "compare": []}
        return _told(study.set, searching, {"method": method}, row.set, settings, fixed)

    def recipe(self, cell: Cell) -> Recipe | None:
        """The cell's recipe, its teacher the same for all seeds; None while its row has trials to do."""
        overrides = self.overrides(cell)
        return None if overrides is None else self._with_one_teacher(overrides)

    def _with_one_teacher(self, overrides: tuple[str, ...]) -> Recipe:
        """The recipe with the first seed for its teacher's, where that is trained and states none."""
        if overrides not in self.read:
            recipe = drawers.read_recipe(self.study.recipe, overrides)
            teacher = recipe.teacher
            if teacher is not None and teacher.weights is None and teacher.seed is None:
                own = teacher.model_copy(update={"seed": self.study.seeds[0]})
                recipe = recipe.model_copy(update={"teacher": own})
            self.read[overrides] = recipe
        return self.read[overrides]

    def has_its_teacher(self, recipe: Recipe) -> bool:
        """Whether a recipe has the teacher, and the data, that the study says for all rows."""
        own = self._with_one_teacher(_told(self.study.set))
        return (own.teacher, own.data, own.task) == (recipe.teacher, recipe.data, recipe.task)

    def teacher(self) -> Result | None:
        """What was measured of the study's teacher; None where nothing was, or of another one than it has now."""
        result = read_result(self.teacher_path)
        if result is None or result.suite != Path(self.study.suite).stem:
            return None
        recipe = result.made_by()
        return result if recipe is not None and self.has_its_teacher(recipe) else None

    def chosen(self, row: str) -> Overrides | None:
        """The row's best trial, the first of equals: nothing where there is no search, None where none can be told.

        That is so before all its trials are done, and where none of them has the study's metric.
        """
        cells = [cell for cell in self.trials() if cell.row == row]
        if any(self.state(cell) not in ("done", "failed") for cell in cells):
            return None
        scores = [self._score(cell) for cell in cells]
        best = max(scores, default=None)
        if best is None:
            return {}
        return None if best == float("-inf") else self.study.rows[row].trials[scores.index(best)]

    def _score(self, cell: Cell) -> float:
        """The trial's metric, more being better; minus infinity where it has none."""
        result = self.result(cell)
        number = result.number("fp32", self.study.metric) if result else None
        if number is None or number.value is None:
            return float("-inf")
        return -number.value if number.better == "lower" else number.value

    def result(self, cell: Cell) -> Result | None:
        return read_result(self.result_path(cell))

    def state(self, cell: Cell) -> State:
        """`stale`: there is a result, of other settings than the study's now. `waiting`: for the row's trials."""
        result, recipe = self.result(cell), self.recipe(cell)
        if recipe is None:
            return "waiting" if result is None else "stale"
        if result is None:
            return "missing"
        measured = (result.suite, result.target) == (Path(self.suite(cell)).stem, Path(self.target(cell)).stem)
        if not measured or not trains_alike(result.made_by(), recipe):
            return "stale"
        return "done" if result.fault is None else "failed"


def open_plan(name: str, runs: Path | None = None, results: Path | None = None) -> Plan:
    """A study of the drawer, or of a file, with its places; results lie by target.

    By default runs are in runs/studies, results in benchmarks/results of the checkout that the study belongs to, else
    in ./results. Raises `UserError` for a study that is not there or not valid.
    """
    study, path = drawers.read_study(name), drawers.find("studies", name).resolve()
    drawer = drawers.folder("studies").resolve()
    own = path.is_relative_to(drawer)
    short = str(path.relative_to(drawer).with_suffix("")) if own else path.stem
    kept = drawer.parent / "results" if own and drawer.parent.name == "benchmarks" else Path("results")
    place = (results or kept) / Path(study.target).stem / short
    return Plan(short, study, (runs or Path("runs") / "studies") / short, place)


def trains_alike(one: Recipe | None, other: Recipe) -> bool:
    """Whether two recipes, as JSON keeps them, ask for the same training."""
    dumps = [recipe and recipe.model_dump(mode="json", exclude=UNTRAINED_BY) for recipe in (one, other)]
    return dumps[0] == dumps[1]


@contextmanager
def claimed(plan: Plan, cell: Cell) -> Iterator[bool]:
    """Whether the cell is this process's to work on, until the block ends."""
    path = plan.runs / ".claims" / plan.run_path(cell).name
    path = path if cell.trial is None else path.with_name(f"search-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _told(*layers: Overrides) -> tuple[str, ...]:
    """Settings as `--set` takes them; of two for one key the later wins."""
    return tuple(f"{key}={_yaml(value)}" for layer in layers for key, value in layer.items())


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip()
