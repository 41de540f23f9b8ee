"""`gate`: a report against its suite's rules. It ships, it holds, or it cannot tell; what is missing holds."""

from pathlib import Path

from pydantic import ValidationError

from kd2edge.edge.gate import judge
from kd2edge.progress import Progress, Silent
from kd2edge.report.model import Verdict, read_report, write_json
from kd2edge.report.page import write_page
from kd2edge.verbs.bench import REPORT, curves

VERDICT = "verdict.json"
OPERATING_FAR = "1e-3"


def gate(source: Path, baseline: Path | None = None, progress: Progress | None = None) -> Verdict:
    """Judge the report of a run, or a report file, where rules say so against a `baseline` (a report or a run).

    Writes verdict.json beside the report and the verdict into its page. Raises `UserError` where a report is missing
    or unreadable.
    """
    progress = progress or Silent()
    path = report_path(source)
    report = read_report(path)
    verdict = judge(report, read_report(report_path(baseline)) if baseline else None)
    write_json(verdict, path.with_name(VERDICT))
    page = write_page(report, verdict, curves(path.parent), path.with_suffix(".html"))
    progress.say(f"Verdict: {path.with_name(VERDICT)}, page: {page}")
    return verdict


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
