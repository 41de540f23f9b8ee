"""`distill`: train what a recipe says, into a run directory. The only verb that needs torch."""

import importlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kd2edge import drawers
from kd2edge import run as runs
from kd2edge.errors import MissingExtra, UserError
from kd2edge.kd import torchrun, trackers
from kd2edge.progress import Progress, Silent
from kd2edge.run import Run
from kd2edge.schema import Recipe

if TYPE_CHECKING:  # what measures needs torch
    from kd2edge.kd.spans import Spans

RUNS = Path("runs")

STEPS = (("method", "first", "name"), ("method", "distil", "name"))  # of SH-KD
MODELS = (("student", "model", "path"), ("teacher", "model", "path"))  # of ONNX files
PLUGINS = (*STEPS, ("data", "name"), ("method", "name"), ("student", "model", "name"), ("teacher", "model", "name"))
DECLARATIONS = (("suite",), ("target",))
FILES = ("path", "train", "test", "names", "subgroups")  # of a data section: files or folders, whatever their suffix
WEIGHTS = (("teacher", "weights"), ("student", "weights"))
PATHS = (*PLUGINS, *DECLARATIONS, *(("data", key) for key in FILES), *MODELS, *WEIGHTS)


def distill(
    recipe: str | None = None,
    overrides: tuple[str, ...] = (),
    run: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    spans: "Spans | None" = None,
) -> Run:
    """Train teacher and student by a recipe and export them, with `a.b=c` overrides on top.

    `recipe` is a name of the drawer or a path; by default "omniglot", or with `resume` the run's own. `run` defaults to
    `runs/<recipe>-<time>`, or with `resume` to the newest run of that recipe. Where torchrun started several processes,
    they train together, and the first of them makes the run; where it restarted them, the run goes on. `spans` (see
    `measuring`) takes in where the first one's time goes. Raises `UserError` for a faulty recipe, a directory that
    holds another run, and where torch is missing.
    """
    require_torch()
    from kd2edge.kd import ranks

    path = directory(recipe, run, resume)
    together = ranks.join()
    resume = resume or torchrun.restarted(path / runs.RECIPE)
    made = begin(recipe, overrides, path, resume) if together.first else Run(path)
    together.wait()
    if not together.first:
        follow(made)
        return made
    with made.lock():
        train(made, progress or Silent(), spans)
    return made


def measuring() -> "Spans":
    """What measures a training, and then tells where its time went. Raises `MissingExtra` where torch is missing."""
    require_torch()
    from kd2edge.kd.spans import Spans

    return Spans()


def follow(run: Run) -> None:
    """Train with the first rank, which holds the run's lock and writes."""
    from kd2edge.kd.distill import distill as training

    training(run.recipe, run, Silent())


def distill_seeds(
    recipe: str | None,
    overrides: tuple[str, ...],
    run: Path,
    resume: bool,
    count: int,
    progress: Progress | None = None,
) -> list[Run]:
    """`distill` a recipe `count` times into `run`/seed-N, whole runs with the recipe's seed and those that follow it.

    All are begun before any is trained, so that `resume` needs neither the recipe nor the overrides again. Raises
    `UserError` as `distill` does, and for several processes.
    """
    require_torch()
    if torchrun.count() > 1:
        raise UserError("Several processes train one run together.", "start each seed by itself: --set seed=N")
    begun_before = run.glob(f"seed-*/{runs.RECIPE}") if resume and recipe is None else ()
    first_of_them = min(begun_before, key=lambda path: int(path.parent.name.removeprefix("seed-")), default=None)
    source = recipe if first_of_them is None else str(first_of_them)
    first = drawers.read_recipe(source or drawers.DEFAULT_RECIPE, overrides).seed
    begun = [
        begin(source, (*overrides, f"seed={seed}"), run / f"seed-{seed}", resume)
        for seed in range(first, first + count)
    ]
    for made in begun:
        with made.lock():
            train(made, progress or Silent())
    return begun


def directory(recipe: str | None, run: Path | None, resume: bool, seeds: bool = False) -> Path:
    """The directory that `distill`, or with `seeds` `distill_seeds`, will use.

    Raises `UserError` when there is no run to resume, and where torchrun's processes would each name one by the time.
    """
    if run is not None:
        return run
    if torchrun.count() > 1:
        raise UserError("Several processes need one directory for the run.", "name it: --run DIR")
    name = Path(recipe or drawers.DEFAULT_RECIPE).stem
    if not resume:
        return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    stamped = re.compile(re.escape(name) + r"-\d{8}-\d{6}")
    recipes = RUNS.glob(f"*/seed-*/{runs.RECIPE}" if seeds else f"*/{runs.RECIPE}")
    found = sorted({path.parents[seeds] for path in recipes if stamped.fullmatch(path.parents[seeds].name)})
    if not found:
        raise UserError(
            f"There is no run of {name} in {RUNS}/ to resume.", "name it with --run DIR, or leave --resume out"
        )
    return found[-1]


def names_known(recipe: Recipe) -> None:
    """Raise `UserError` for a suite or a target that there is not: now, not after an hour of training."""
    drawers.read_suite(recipe.suite)
    drawers.read_target(recipe.target)


def begin(
    recipe: str | None,
    overrides: tuple[str, ...],
    path: Path,
    resume: bool,
    check: Callable[[Recipe], None] = names_known,
) -> Run:
    """Make the run directory, or open the one to resume, whose recipe is then its own unless one is named.

    `check` may refuse the recipe before a directory is made.
    """
    if resume and not (path / runs.RECIPE).is_file() and recipe is None:
        raise UserError(f"There is no run in {path} to resume.", "leave --resume out to start one")
    if resume:
        own = path / runs.RECIPE if recipe is None else recipe
        declared = drawers.read_recipe(own, overrides)
    else:
        declared = _checked(recipe or drawers.DEFAULT_RECIPE, overrides)
    check(declared)
    trackers.require([name for name in declared.track if name != "tensorboard"])
    return runs.create(path, anchored(declared), resume)


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with its relative paths made absolute, where there is such a file or folder.

    A run is worked on from any directory; a recipe may be written for the one that it lies in.
    """
    tree = recipe.model_dump(mode="json")
    for *parents, key in PATHS:
        section = tree
        for part in parents:
            inner = section.get(part)
            section = inner if isinstance(inner, dict) else {}
        value = section.get(key)
        if isinstance(value, str) and _is_there(key, Path(value)):
            section[key] = str(Path(value).absolute())
    return Recipe.model_validate(tree)


def _is_there(key: str, path: Path) -> bool:
    """Whether a value is the path of something, and no name that happens to be a file's: names have no suffix."""
    if key in FILES:
        return path.exists()
    suffixes = {"name": (".py",), "suite": (".yaml", ".yml"), "target": (".yaml", ".yml")}
    return path.is_file() and (path.suffix in suffixes[key] if key in suffixes else path.suffix != "")


def train(run: Run, progress: Progress, spans: "Spans | None" = None) -> None:
    """Train into a run that is locked, and say in its ledger that this is done."""
    require_torch()
    from kd2edge.kd.distill import distill as training
    from kd2edge.kd.spans import NONE

    training(run.recipe, run, progress, spans or NONE)
    run.record("distill", "finished")


def require_torch() -> None:
    """Raise `MissingExtra` where torch is not installed: before a run directory is made, not after."""
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "train", "distill") from error


def _checked(source: str, overrides: tuple[str, ...]) -> Recipe:
    """A recipe whose plug-ins have been asked too: all faults are told at once, before a run directory is made."""
    from kd2edge.kd.check import plugin_faults

    return drawers.read_recipe(source, overrides, plugin_faults)
