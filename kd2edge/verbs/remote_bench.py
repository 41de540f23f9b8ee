"""`bench --on`: measured by another machine on images decoded here; the report comes back, its page is made here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd2edge import drawers
from kd2edge.edge.kit import Kit, refuse_control
from kd2edge.edge.signed import signed
from kd2edge.errors import UserError, first_line
from kd2edge.files import read_bounded
from kd2edge.report.model import Report, Row, read_report
from kd2edge.schema import Plugin, quickened
from kd2edge.verbs import remote
from kd2edge.verbs.bench import Items, bench
from kd2edge.verbs.images import open_data
from kd2edge.verbs.inspection import inspected
from kd2edge.verbs.remote import Done, Elsewhere
from kd2edge.verbs.remote_kit import new_kit, pack

LARGEST = 1 << 28  # bytes of a report
MOST = 1e30


def bench_elsewhere(sources: Sequence[Path], elsewhere: Elsewhere, **options: Any) -> Report:
    """`bench` on another machine; `options` are its own.

    Raises as `remote.done` does, and `UserError` for a model that is gone: there is nothing to send.
    """

    def measured(items: Items, data: Plugin, suite: str, target: str, command: str, quick: bool) -> Report:
        kit, source = _kit(items, data, suite, target, f"{command}{_how(elsewhere)}", quick)
        work = remote.done(elsewhere, kit, lambda places, room: pack(kit, items, places, room, source=source))
        with work as done:
            return _believed(done, kit, items)

    return bench(sources, progress=elsewhere.progress, elsewhere=measured, **options)


def _kit(items: Items, data: Plugin, suite: str, target: str, command: str, quick: bool) -> tuple[Kit, Any]:
    source, rules = open_data(data), drawers.read_suite(suite)
    rules = quickened(rules) if quick else rules
    gone = [artifact.path for _, artifact in items if not artifact.path.is_file()]
    if gone:
        raise UserError(f"There is no model file {gone[0]}.", "make it again, or name the other files")
    kit = new_kit(target, drawers.read_target(target)).model_copy(
        update={
            "suite": rules,
            "suite_name": Path(suite).stem,
            "numbers": dict(inspected(items, source, rules.split)),
            "command": command,
        }
    )
    return kit, source


def _how(elsewhere: Elsewhere) -> str:
    """What the command of a report says of where it was measured; a kit knows only that it was another machine."""
    if elsewhere.on is None:
        return " --kit KIT"
    port = f":{elsewhere.on.port}" if elsewhere.on.port else ""
    return f" --on ssh://{elsewhere.on.shown}{port}"


def _believed(done: Done, kit: Kit, items: Items) -> Report:
    """The report of these items by this suite, its files called as they are here.

    Raises `UserError` for any other. That its numbers were measured, nothing but the far side can say.
    """
    if done.result.report is None or done.kit.suite is None:
        raise UserError("What came back holds no report.", "it may be that of `export`")
    path = done.folder / done.result.report
    refuse_control(read_bounded(path, LARGEST), path.name)
    report = read_report(path)
    try:
        told = report.model_dump(mode="json")
        report.model_dump_json()
    except ValueError as error:  # half a letter, or lists in lists without end
        raise UserError(f"What came back cannot be written as a report: {first_line(error)}.") from error
    if not _plausible(told):
        raise UserError("The report that came back has numbers that are no measurements.", "look at the machine there")
    here = {role: artifact.manifest.sha256 for role, artifact in items}
    if {row.role: row.sha256 for row in report.rows} != here or len(report.rows) != len(here):
        raise UserError("The report that came back is of other models than there are now.", "make a new kit")
    asked = (kit.target_name, kit.suite_name, kit.suite, kit.command)
    if (report.target, report.suite_name, report.suite, report.command) != asked:
        raise UserError(
            "The report that came back is not the one that was asked for.", "the kit's own command; else make a new kit"
        )
    given = dict(items)
    rows = [_row(row, kit, given[row.role]) for row in report.rows]
    return report.model_copy(update={"rows": tuple(rows)})


def _plausible(told: Any) -> bool:
    """Whether every number in JSON values is one that something could have measured: drawing others overflows."""
    if isinstance(told, dict | list):
        return all(map(_plausible, told.values() if isinstance(told, dict) else told))
    return not isinstance(told, int | float) or abs(told) <= MOST


def _row(row: Row, kit: Kit, artifact: Any) -> Row:
    """Who signed a model is for this machine to say."""
    theirs = {key: value for key, value in row.conditions.items() if key not in ("signed", "unsigned")}
    ours = signed(artifact, kit.suite is not None and kit.suite.signed)
    return row.model_copy(update={"file": str(artifact.path), "conditions": {**theirs, **ours}})
