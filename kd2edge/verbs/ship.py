"""`ship`: distill, quantize, export, bench and gate in one go; after an interruption, only what is not done yet."""

from dataclasses import dataclass
from pathlib import Path

from kd2edge import drawers
from kd2edge.artifact import Artifact, open_artifact
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.kd import torchrun
from kd2edge.progress import Progress, Silent
from kd2edge.report.model import Report, Verdict, read_report
from kd2edge.run import Run
from kd2edge.schema import Recipe
from kd2edge.verbs import precisions
from kd2edge.verbs.bench import REPORT, bench_run, run_items, shipping
from kd2edge.verbs.distill import begin, directory, require_torch, train
from kd2edge.verbs.export import export_run
from kd2edge.verbs.gate import gate
from kd2edge.verbs.qat import qat_run
from kd2edge.verbs.quantize import quantize_run


@dataclass(frozen=True)
class Shipped:
    """What `ship` came to."""

    run: Run
    report: Report
    verdict: Verdict
    page: Path


def ship(
    recipe: str | None = None,
    overrides: tuple[str, ...] = (),
    run: Path | None = None,
    resume: bool = False,
    suite: str | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> Shipped:
    """The whole way from a recipe to a verdict. `suite` and `target` default to the recipe's own.

    A step is passed over if the ledger shows that it was done and the files it made are still what they were. Raises
    `UserError` as its steps do, and before any of them if what is left cannot be benched on this machine.
    """
    progress = progress or Silent()
    if not resume:
        require_torch()
    path = directory(recipe, run, resume)
    if torchrun.count() > 1:
        raise UserError("Several processes train together, and one ships.", "torchrun … distill, then ship --resume")

    def ready(declared: Recipe) -> None:
        _ready(Run(path), suite or declared.suite, target or declared.target)

    made = begin(recipe, overrides, path, resume, ready)
    suite, target = suite or made.recipe.suite, target or made.recipe.target
    quantizes = "int8" in drawers.read_target(target).precisions
    with made.lock():
        if not trained(made):
            train(made, progress)
        if quantizes and not quantized(made, target):
            int8_run(made, target, progress)
        if not _exported(made, target):
            export_run(made, target, True, False, None, progress)
        report = _benched(made, suite, target) or bench_run(made, suite, target, None, progress)
        verdict = gate(made.path, progress=progress)
    return Shipped(made, report, verdict, (made.path / REPORT).with_suffix(".html"))


def _ready(run: Run, suite: str, target: str) -> None:
    """Raise `UserError` for an unknown suite or target, or one that has to be benched and cannot be run here."""
    drawers.read_suite(suite)
    fault = open_backend(drawers.read_target(target).backend).available()
    if fault is not None and _benched(run, suite, target) is None:
        raise UserError(
            f"The target {target} cannot be benched here: {fault}",
            "name another --target, or only train: kd2edge distill",
        )


def trained(run: Run) -> bool:
    """Whether training said that it was done, and every file of it is there. Raises `UserError` if one was altered."""
    if not any(event["verb"] == "distill" and event["event"] == "finished" for event in run.events()):
        return False
    nets = {role: path for role, path in run.files("onnx").items() if role not in ("fp16", "int8")}
    present = "fp32" in nets and all(path.is_file() for path in nets.values())
    return present and all(open_artifact(path) is not None for path in nets.values())


def quantized(run: Run, target: str) -> bool:
    """Whether the INT8 file of the target's flavour is there, whole, and made of the student that is there.

    Where the recipe has a `qat` section it must have been trained, or have won a search since.
    """
    line = precisions.entry(run, "int8", drawers.read_target(target).flavour)
    if line is None:
        return False
    try:
        found = open_artifact(run.path / line["file"]).manifest
    except UserError:
        return False  # gone or damaged: it is made again
    as_asked = found.verb == "search" or ("qat" in found.details) == (run.recipe.qat is not None)
    same = found.sha256 == line["sha256"] and run.artifact("fp32").manifest.sha256 in found.parents
    return as_asked and same


def int8_run(run: Run, target: str, progress: Progress) -> Artifact:
    """The INT8 of a locked run: trained where its recipe has a `qat` section, else calibrated."""
    return quantize_run(run, target, None, progress) if run.recipe.qat is None else qat_run(run, target, progress)


def _exported(run: Run, target: str) -> bool:
    """Whether the last export for this target proved the very files that are there now."""
    done = [e for e in run.events() if e["verb"] == "export" and e["event"] == "finished" and e["target"] == target]
    return bool(done) and done[-1]["files"] == precisions.digests(run, drawers.read_target(target))


def _benched(run: Run, suite: str, target: str) -> Report | None:
    """The run's report, if it measured these very files by this very suite for this target, and none was at fault."""
    try:
        report = read_report(run.path / REPORT)
    except UserError:
        return None
    measured = {row.role: row.sha256 for row in report.rows if not row.faults}
    files = run_items(run, drawers.read_target(target))
    wanted = {role: item.manifest.sha256 for role, item in shipping(run, files, target)}
    same = (report.suite, report.target) == (drawers.read_suite(suite), Path(target).stem)
    return report if same and measured == wanted else None
