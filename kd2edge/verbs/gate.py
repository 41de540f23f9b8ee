"""`gate`: a report against its suite's rules. It ships, it holds, or it cannot tell; what is missing holds."""

from pathlib import Path

from pydantic import ValidationError

from kd2edge import drawers
from kd2edge.artifact import Artifact
from kd2edge.edge.fitness import BASELINE
from kd2edge.edge.gate import judge
from kd2edge.errors import UserError
from kd2edge.files import sha256, write_atomic
from kd2edge.progress import Progress, Silent
from kd2edge.report.junit import junit as junit_xml
from kd2edge.report.markdown import markdown as summary
from kd2edge.report.model import Report, Row, Verdict, read_report, write_json
from kd2edge.report.page import write_page
from kd2edge.run import LEDGER, RECIPE, Run
from kd2edge.verbs.bench import REPORT, VERDICT, curves, made, run_items, shipping

OPERATING_FAR = "1e-3"


def gate(
    source: Path,
    baseline: Path | None = None,
    progress: Progress | None = None,
    accept: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
) -> Verdict:
    """Judge the report of a run, or a report file, where rules say so against a `baseline` (a report or a run).

    Of a run, a row whose file is gone, or not the one that was measured, is faulty. Writes verdict.json beside the
    report and the verdict into its page, where asked as `junit` and `markdown` too, and, of what ships, the report to
    `accept` as the next baseline. Raises `UserError` where a report, or its target, is missing or unreadable, and for a
    path that cannot be written.
    """
    progress = progress or Silent()
    path = report_path(source)
    for out in filter(None, (accept, junit, markdown)):
        _refuse_to_write(out, path)
    if baseline and path.exists() and report_path(baseline).exists() and path.samefile(report_path(baseline)):
        raise UserError(
            f"{path} is its own baseline: nothing could be worse.", "name a report that was accepted before"
        )
    report = read_report(path)
    if any((source / name).is_file() for name in (RECIPE, LEDGER)):
        report = _still_measured(report, Run(source), path)
    held_against = read_report(report_path(baseline)) if baseline else None
    verdict = judge(report, held_against)
    write_json(verdict, path.with_name(VERDICT))
    page = write_page(report, verdict, curves(path.parent), path.with_suffix(".html"), made(path.parent))
    if junit:
        write_atomic(junit, junit_xml(report, verdict))
    if markdown:
        write_atomic(markdown, summary(report, verdict).encode())
    progress.say(f"Verdict for {report.target}: {path.with_name(VERDICT)}, page: {page}")
    if held_against and not any(rule.versus == BASELINE for rule in report.suite.rules):
        progress.say(f"No rule of the suite {report.suite_name} compares with a baseline: it decided nothing.")
    if accept:
        progress.say(_accept(report, verdict, accept))
    return verdict


def _refuse_to_write(out: Path, report: Path) -> None:
    """Raise `UserError` for what is no file of its own: a device (a rename would replace it), a folder, the report."""
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is not a file.", "name a file; for the summary of a CI job, append that file to it")
    if out.exists() and report.exists() and out.samefile(report):
        raise UserError(f"{out} is the report that is to be judged.", "name another file")


def _accept(report: Report, verdict: Verdict, path: Path) -> str:
    """Keep what ships as the next baseline, without what is drawn and never judged; the sentence says what was done."""
    why = "it was measured with --quick" if report.suite.quick else None
    if verdict.verdict != "ship":
        why = f"the verdict is {verdict.verdict}"
    if why:
        return f"Not accepted: only what ships becomes a baseline, and {why}; {path} is as it was."
    rows = tuple(row.model_copy(update={"traces": {}}) for row in report.rows)
    write_json(report.model_copy(update={"rows": rows, "regressions": ()}), path)
    return f"Accepted: {path} is the baseline now."


def _still_measured(report: Report, run: Run, path: Path) -> Report:
    """The report with a fault in each row whose file in the run is no longer the one that was measured."""
    target = _target(report, run, path)
    items = dict(shipping(run, run_items(run, drawers.read_target(target)), target))
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
