"""Where the measured files come from: what a run's ledger names, by role, and which of it the report measured."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kd2edge.report.model import Report, Row

Ledger = Sequence[Mapping[str, Any]]


class Step(NamedTuple):
    """One file on the way from recipe to engine. `measured` is the row that timed it; what is not known is empty."""

    kind: str
    file: str
    sha256: str
    verb: str = ""
    time: str = ""
    measured: Row | None = None


def chains(report: Report, ledger: Ledger) -> dict[str, list[Step]]:
    """Role → its files, oldest first; of a file that was made twice the newest entry. Rows stand without a ledger too.

    `ledger` are the artefact events of a run: role, kind, file, sha256, verb, time.
    """
    entered = {(str(event.get("role")), str(event.get("file"))): event for event in ledger}
    by_role: dict[str, list[Step]] = {row.role: [] for row in report.rows}
    for (role, _), event in entered.items():
        by_role.setdefault(role, []).append(_step(event, report.row(role)))
    for row in report.rows:
        if not any(step.measured for step in by_role[row.role]):
            by_role[row.role].append(Step("measured file", row.file, row.sha256, measured=row))
    return by_role


def _step(event: Mapping[str, Any], row: Row | None) -> Step:
    """An event as a step; its columns are strings, whatever the ledger holds."""
    kind, file, sha256, verb, time = (str(event.get(key, "")) for key in ("kind", "file", "sha256", "verb", "time"))
    return Step(kind, file, sha256, verb, time, row if row is not None and row.sha256 == sha256 else None)


def commands(report: Report, ledger: Ledger, path: str) -> list[tuple[str, str]]:
    """What to type to have it all again, and what that gives. `path` is the report's file name; runs keep a recipe."""
    again = [
        (report.command, "measures every number on this page"),
        (f"kd2edge gate {shlex.quote(path)}", "judges them"),
    ]
    made = [("kd2edge ship recipe.yaml", "makes the files anew, from the recipe that lies in the run")]
    return again + (made if ledger else [])
