"""`history`: how the numbers of a recipe went, over the commits of a report that git keeps, or over a folder's runs.

`gate --accept` writes such a report; the repository that keeps it has its history.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from kd2edge.edge.differences import differences
from kd2edge.errors import UserError
from kd2edge.progress import Progress, Silent
from kd2edge.report import figures
from kd2edge.report.history import History, Moment, write_history
from kd2edge.report.model import Report
from kd2edge.verbs.bench import REPORT

SPEED = "latency_p50"
APART = "\x1f"  # between what git prints; no subject holds it


class Version(NamedTuple):
    """A report as it was at a commit or in a run."""

    name: str
    said: str
    report: Report


def history(
    source: Path, metrics: Sequence[str] = (), out: Path | None = None, progress: Progress | None = None
) -> History:
    """The numbers of a report file in git at each commit that changed it, or of all reports below a folder by time.

    Reports of another suite or target than the newest are left out, and named. `metrics` default to those that rules
    of the newest name for accuracy, and p50. The page goes to `out`, else beside the report or into the folder, as
    history.html. Raises `UserError` where there is no report.
    """
    progress = progress or Silent()
    notes: list[str] = []
    found = list(_of_folder(source, notes) if source.is_dir() else _of_git(source, notes))
    if not found:
        raise UserError(f"There is no report of kd2edge in {source}{_because(notes)}.", "kd2edge bench writes one")
    newest = found[-1].report
    kept = [version for version in found if _alike(version.report, newest)]
    notes += [f"{v.name} is of {v.report.suite_name} on {v.report.target}" for v in found if v not in kept]
    notes += [f"{v.name}: {row.role} is faulty: {row.faults[0]}" for v in kept for row in v.report.rows if row.faults]
    chosen = tuple(metrics) or _headlines(newest)
    result = History(
        source=str(source),
        suite=newest.suite_name,
        target=newest.target,
        metrics=chosen,
        moments=tuple(_moments(kept, chosen)),
        notes=tuple(notes),
    )
    page = write_history(result, out or (source if source.is_dir() else source.parent) / "history.html")
    progress.say(f"Page: {page}")
    return result


def _alike(report: Report, newest: Report) -> bool:
    return (report.suite_name, report.target) == (newest.suite_name, newest.target)


def _headlines(report: Report) -> tuple[str, ...]:
    ruled = [rule.metric for rule in report.suite.rules if figures.kind(rule.metric) == "accuracy"]
    found = list(dict.fromkeys(filter(None, [figures.headline(report), *ruled])))[:3]
    return (*found, SPEED, "size")


def _moments(versions: Sequence[Version], metrics: Sequence[str]) -> Iterator[Moment]:
    before: Report | None = None
    for name, said, report in versions:
        numbers = {
            row.role: {metric: row.numbers[metric] for metric in metrics if metric in row.numbers}
            for row in report.rows
            if not row.faults
        }
        changed = differences(report, before) if before else ()
        yield Moment(name=name, created=report.created, said=said, numbers=numbers, differences=changed)
        before = report


def _of_folder(folder: Path, notes: list[str]) -> Iterator[Version]:
    found = []
    for path in sorted(folder.rglob(REPORT)):
        report = _parsed(path.read_bytes(), str(path), notes)
        if report:
            found.append(Version(str(path.parent.relative_to(folder)), "", report))
    yield from sorted(found, key=lambda version: version.report.created)


def _of_git(file: Path, notes: list[str]) -> Iterator[Version]:
    """The file at each commit that changed it, the oldest first, and as it lies there if that is another."""
    if not file.is_file():
        raise UserError(f"There is no report {file}.", "name a report that git keeps, or a folder of runs")
    last: bytes | None = None
    for line in reversed(_git(file, "log", f"--format=%h{APART}%s", "--", file.name).decode().splitlines()):
        commit, _, said = line.partition(APART)
        try:
            last = _git(file, "show", f"{commit}:./{file.name}")
        except UserError:
            notes.append(f"{commit} removed the file")
            continue
        report = _parsed(last, commit, notes)
        if report:
            yield Version(commit, said, report)
    now = file.read_bytes()
    report = _parsed(now, str(file), notes) if now != last else None
    if report:
        yield Version("now", "", report)


def _git(file: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=file.absolute().parent, capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("There is no git here.", "install it, or name a folder of runs") from None
    if done.returncode:
        why = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[0]
        raise UserError(f"git cannot tell the history of {file}: {why}.", "name a report that git keeps")
    return done.stdout


def _parsed(content: bytes, name: str, notes: list[str]) -> Report | None:
    try:
        return Report.model_validate(json.loads(content))
    except (ValueError, ValidationError):
        notes.append(f"{name} is no report that this kd2edge can read")
        return None


def _because(notes: Sequence[str]) -> str:
    return f": {notes[0]}" if notes else ""
