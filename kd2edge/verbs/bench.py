"""`bench`: measure what ships, on the machine it ships to: report.json for programs, report.html for people.

Until both are written, what was measured lies beside them, so that the same command goes on after an interruption.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kd2edge import drawers
from kd2edge.artifact import Artifact, Manifest, read_manifest
from kd2edge.edge import bench as edge
from kd2edge.edge.kept import Kept, kept_in
from kd2edge.errors import UserError
from kd2edge.files import sha256
from kd2edge.progress import Progress, Silent
from kd2edge.report.model import Report, write_json
from kd2edge.report.page import write_page
from kd2edge.run import Run, open_run
from kd2edge.schema import Plugin, Target, quickened
from kd2edge.verbs import operating, precisions
from kd2edge.verbs.engines import exported
from kd2edge.verbs.images import completed, data_for, open_data
from kd2edge.verbs.inspection import inspected
from kd2edge.verbs.models import is_run, open_model, refuse_for_a_run
from kd2edge.verbs.quantize import DEFAULT_TARGET
from kd2edge.verbs.suite_data import own_data

REPORT = "report.json"
VERDICT = "verdict.json"
KEPT = "bench"  # the folder of a run in which interrupted benches lie
Items = list[tuple[str, Artifact]]
# Measures on another machine: items, data, the names of suite and target, the command for the report, whether quickly.
Elsewhere = Callable[[Items, Plugin, str, str, str, bool], Report]


def bench(
    sources: Sequence[Path],
    suite: str | None = None,
    target: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    preprocess: str | None = None,
    task: str | None = None,
    progress: Progress | None = None,
    quick: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Report:
    """Measure a run's models, or the given ONNX files, by a suite on the test images, and write report and page.

    A suite that brings its own test set has it from `data`: a file, or the folder it lies in; else `data` is a folder
    of class folders, for ONNX files only.
    Of a run the rows are the roles of its ledger, INT8 in the target's flavour; a file that is gone is a row with that
    fault. ONNX files take their role from their manifest, or from their precision; without a manifest
    `preprocess` and `task` are stated as for `quantize`. `suite` and `target` default to
    the run's own; for ONNX files to "model" or "model-verification" and "onnx-cpu". The report goes to `out`,
    else into the run (into a folder named as the suite, if that brings its own test set), else to ./report.json, the
    page beside it. With `quick` the suite is shortened (see `schema.quickened`). `elsewhere` measures on another
    machine. The same call goes on with what an interrupted one has measured. Raises `UserError` for what concerns all
    rows, or where another bench is measuring for the same report.
    """
    progress = progress or Silent()
    if any(is_run(source) for source in sources):
        if len(sources) > 1:
            raise UserError("A run is benched alone.", "name one run, or ONNX files")
        refuse_for_a_run(preprocess=preprocess, task=task)
        run = open_run(sources[0])
        with run.lock():
            asked = (suite or run.recipe.suite, target or run.recipe.target, out, progress)
            return bench_run(run, *asked, data=data, quick=quick, elsewhere=elsewhere)
    own = own_data(drawers.read_suite(suite), suite, data) if suite else None
    items, images = _given(sources, data, preprocess, task, progress, own)
    suite = suite or ("model" if items[0][1].manifest.task == "classification" else "model-verification")
    target = target or DEFAULT_TARGET
    command = _command(sources, suite, target, data, quick)
    path = out or Path(REPORT)
    with _kept(path.with_name(f".{path.name}.cells"), progress) as kept:
        if elsewhere is not None:
            report = elsewhere(items, images, suite, target, command, quick)
        else:
            report = measured(items, images, suite, target, command, progress, kept=kept, quick=quick)
        _write(report, {}, path, progress)
    return report


def bench_run(
    run: Run,
    suite: str,
    target: str,
    out: Path | None,
    progress: Progress,
    roles: Sequence[str] | None = None,
    data: Path | None = None,
    quick: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Report:
    """`bench` for a run that is locked already; of all its `roles` by default."""
    own = own_data(drawers.read_suite(suite), suite, data)
    if own is None:
        refuse_for_a_run(data=data)
    files = [
        (role, item) for role, item in run_items(run, drawers.read_target(target)) if roles is None or role in roles
    ]
    items = shipping(run, files, target)
    if not items:
        raise UserError(f"{run.path} has no model to measure yet.", f"kd2edge distill --run {run.path} --resume")
    command = _command([run.path], suite, target, data, quick)
    folder = run.path / Path(suite).stem if own else run.path
    with _kept(run.path / KEPT / f"{Path(suite).stem}-{Path(target).stem}", progress) as kept:
        if elsewhere is not None:
            report = elsewhere(items, own or run.recipe.data, suite, target, command, quick)
        else:
            report = measured(items, own or run.recipe.data, suite, target, command, progress, kept=kept, quick=quick)
        path = _write(report, curves(run.path), out or folder / REPORT, progress, made(run.path))
        if own is None:
            operating.keep(list({item.path: (role, item) for role, item in [*files, *items]}.values()), report)
        run.record("bench", "finished", suite=suite, target=target, report=str(path), sha256=sha256(path))
    with suppress(OSError):  # others may lie in it
        (run.path / KEPT).rmdir()
    return report


def run_items(run: Run, target: Target) -> Items:
    """What a run's ledger names, by role: teacher, comparisons, and of the target's precisions those that were made."""
    entries = {e["role"]: e for e in run.events() if e["event"] == "artifact" and e["kind"] == "onnx"}
    roles = [role for role in entries if role not in ("fp32", "fp16", "int8")]
    items = [(role, _entered(run, entries[role])) for role in roles]
    for precision in precisions.of_target(target):
        entry = precisions.entry(run, precision, target.flavour)
        items += [(precision, _entered(run, entry))] if entry else []
    return items


def shipping(run: Run, files: Items, target: str) -> Items:
    """What really ships of a run's ONNX files: the engine of each that was exported for the target, where there is one.

    Another build may choose other tactics, so that what is measured is the very engine.
    """
    return [(role, exported(run, item, target) or item) for role, item in files]


def curves(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The training logs of a run by role, one mapping per epoch; empty where there are none."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for path in sorted((folder / "log").glob("*.jsonl"))
    }


def made(folder: Path) -> list[dict[str, Any]]:
    """What the ledger of a run names, oldest first; nothing where there is no ledger."""
    return [event for event in Run(folder).events() if event["event"] == "artifact"]


def _entered(run: Run, entry: Mapping[str, Any]) -> Artifact:
    """An artefact as the ledger describes it, unopened: that its file is gone, or another, is for its row to say."""
    path, role = run.path / entry["file"], entry["role"]
    try:
        manifest = read_manifest(path)[0]
    except UserError:
        precision = role if role in ("fp16", "int8") else "fp32"
        fields = {"file": path.name, "bytes": 0, "kind": "onnx", "role": role, "verb": "", "precision": precision}
        manifest = Manifest.model_validate({**fields, "sha256": entry["sha256"]})
    return Artifact(path, manifest.model_copy(update={"sha256": entry["sha256"]}))


def _given(
    sources: Sequence[Path],
    data: Path | None,
    preprocess: str | None,
    task: str | None,
    progress: Progress,
    own: Plugin | None,
) -> tuple[Items, Plugin]:
    """The given files by role (a second of the same role goes by its file's name), and the data that all share.

    `own` is that of the suite. What it judges by pairs or templates gives an embedding, unless its manifest says else.
    """
    if not sources:
        raise UserError("There is nothing to measure.", "name a run or ONNX files")
    items: dict[str, Artifact] = {}
    images = own
    unsaid = task
    if own is not None and task is None and open_data(own).split("test").protocol is not None:
        unsaid = "verification"
    for path in sources:
        model = open_model(path, preprocess, progress.say)
        images = images or data_for(model, data)
        source = open_data(images)
        model = completed(model, images, source, unsaid if model.manifest.task is None else task)
        role = model.manifest.role if model.manifest.role not in items else path.stem
        if role in items:
            raise UserError(f"Two of the files would be the row {role}.", "rename one of them")
        items[role] = model
    assert images is not None
    return list(items.items()), images


@contextmanager
def _kept(folder: Path, progress: Progress) -> Iterator[Kept]:
    """What an interrupted bench left in a folder, which is gone once this one is finished."""
    with kept_in(folder) as kept:
        if kept.earlier:
            progress.say(f"An interrupted bench left {kept.earlier} measurements; to begin anew, remove {folder}")
        yield kept
        kept.remove()


def measured(
    items: Items,
    data: Plugin,
    suite: str,
    target: str,
    command: str,
    progress: Progress,
    accuracy: bool = True,
    kept: Kept | None = None,
    quick: bool = False,
) -> Report:
    """A report on the files, by a suite; of speed and size alone without `accuracy`. See `edge.bench` for `kept`."""
    progress.start("bench", 100)
    done = 0

    def tell(what: str, share: float) -> None:
        nonlocal done
        steps = int(100 * share) - done
        done += steps
        progress.advance(steps, now=what)

    source, rules = open_data(data), drawers.read_suite(suite)
    rules = quickened(rules) if quick else rules
    report = edge.bench(
        items,
        drawers.read_target(target),
        Path(target).stem,
        rules,
        Path(suite).stem,
        source,
        split=rules.split,
        command=command,
        extra_numbers=dict(inspected(items, source, rules.split)) if accuracy else None,
        progress=tell,
        accuracy=accuracy,
        kept=kept,
    )
    progress.advance(100 - done, now="done")
    return report


def _command(sources: Sequence[Path], suite: str, target: str, data: Path | None, quick: bool) -> str:
    """What repeats the bench, as a shell would take it."""
    stated = ["--suite", suite, "--target", target, *(() if data is None else ("--data", str(data)))]
    return shlex.join(["kd2edge", "bench", *map(str, sources), *stated, *(["--quick"] if quick else ())])


def _write(
    report: Report,
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    progress: Progress,
    lineage: Sequence[Mapping[str, Any]] = (),
) -> Path:
    path.with_name(VERDICT).unlink(missing_ok=True)  # it was on the report that this one replaces
    write_json(report, path)
    page = write_page(report, None, logs, path.with_suffix(".html"), lineage)
    progress.say(f"Report: {path}, page: {page}")
    return path
