"""`gate`: a report against its suite's rules. It ships, it holds, or it cannot tell; what is missing holds."""

from pathlib import Path

from pydantic import ValidationError

from kd2edge import drawers
from kd2edge.artifact import Artifact
from kd2edge.edge.gate import judge
from kd2edge.files import sha256
from kd2edge.progress import Progress, Silent
from kd2edge.report.model import Report, Row, Verdict, read_report, write_json
from kd2edge.report.page import write_page
from kd2edge.run import LEDGER, RECIPE, Run
from kd2edge.verbs.bench import REPORT, curves, run_items

VERDICT = "verdict.json"
OPERATING_FAR = "1e-3"


def gate(source: Path, baseline: Path | None = None, progress: Progress | None = None) -> Verdict:
    """Judge the report of a run, or a report file, where rules say so against a `baseline` (a report or a run).

    Of a run, a row whose file is gone, or not the one that was measured, is faulty. Writes verdict.json beside the
    report and the verdict into its page. Raises `UserError` where a report, or its target, is missing or unreadable.
    """
    progress = progress or Silent()
    path = report_path(source)
    report = read_report(path)
    if any((source / name).is_file() for name in (RECIPE, LEDGER)):
        report = _still_measured(report, Run(source), path)
    verdict = judge(report, read_report(report_path(baseline)) if baseline else None)
    write_json(verdict, path.with_name(VERDICT))
    page = write_page(report, verdict, curves(path.parent), path.with_suffix(".html"))
    progress.say(f"Verdict for {report.target}: {path.with_name(VERDICT)}, page: {page}")
    return verdict


def _still_measured(report: Report, run: Run, path: Path) -> Report:
    """The report with a fault in each row whose file in the run is no longer the one that was measured."""
    items = dict(run_items(run, drawers.read_target(_target(report, run, path))))
    return report.model_copy(update={"rows": tuple(_checked(row, items.get(row.role)) for row in report.rows)})


def _target(report: Report, run: Run, path: Path) -> str:
    """The target as `bench` was given it, by the ledger (the report has only its name, not its file)."""
    lines = (e for e in run.events() if e["verb"] == "bench" and e["event"] == "finished")
    given = {line["sha256"]: str(line["target"]) for line in lines}
    return given.get(sha256(path), report.target)


def _checked(row: Row, item: Artifact | None) -> Row:
    """The row as it is, or with a fault if its file, by the ledger and on disk, is not the one that was measured."""
    if row.faults:
        return row
    if item is None or not item.path.is_file():
        fault = f"{item.path.name if item else row.role} is gone"
    elif {item.manifest.sha256, sha256(item.path)} != {row.sha256}:
        fault = f"{row.role} was changed after it was measured: bench again"
    else:
        return row
    return row.model_copy(update={"faults": (fault,)})


def report_path(source: Path) -> Path:
    return source / REPORT if source.is_dir() else source


def verdict_of(run: Path) -> Verdict | None:
    """The verdict on a run, or None where it was never judged, or an older kd2edge judged it."""
    try:
        return Verdict.model_validate_json((run / VERDICT).read_bytes())
    except (OSError, ValidationError):
        return None


def threshold_of(run: Path, role: str) -> float | None:
    """The cosine above which a run's report takes two images for the same at a FAR of 1e-3, where it says so."""
    if not (run / REPORT).is_file():
        return None
    row = read_report(run / REPORT).row(role)
    thresholds = row.conditions.get("thresholds", {}) if row else {}
    value = thresholds.get(OPERATING_FAR)
    return None if value is None else float(value)
