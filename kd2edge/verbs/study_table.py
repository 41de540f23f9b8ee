"""The table of a study from the results that are there: nothing is trained or measured, so no torch is needed."""

from collections.abc import Mapping
from pathlib import Path

from kd2edge.report import figures
from kd2edge.report.model import Report, read_report
from kd2edge.report.study import Found, Result, Summary
from kd2edge.report.summary import summarize
from kd2edge.verbs.cells import Plan, open_plan


def table(name: str, results: Path | None = None) -> Summary:
    """The table of a study as it stands. Raises `UserError` for a faulty study or result."""
    return tabled(open_plan(name, None, results))


def tabled(plan: Plan) -> Summary:
    """The table of a study whose places are known."""
    results: dict[str, list[Result]] = {row: [] for row in plan.study.rows}
    stale: dict[str, list[int]] = {row: [] for row in plan.study.rows}
    for cell in plan.seeds():
        result = plan.result(cell)
        if result is not None and plan.state(cell) == "stale":
            stale[cell.row].append(cell.seed)
        elif result is not None:
            results[cell.row].append(result)
    teacher = plan.teacher()
    report = read_report(plan.latency_path) if plan.latency_path.is_file() else None
    p50 = _p50(report, results, teacher) if report else {}
    found = Found(
        results={row: tuple(those) for row, those in results.items()},
        stale={row: tuple(seeds) for row, seeds in stale.items()},
        settings={row: plan.chosen(row) or {} for row in plan.study.rows},
        trials=sum(plan.state(cell) in ("done", "failed") for cell in plan.trials()),
        teacher=teacher,
        p50=p50,
        p50_conditions=_conditions(report) if report and p50 else None,
    )
    return summarize(plan.name, plan.study, found)


def _p50(report: Report, results: Mapping[str, list[Result]], teacher: Result | None) -> dict[str, dict[str, float]]:
    """ms by row and precision, of those files whose accuracy is in the table; the roles are `<row>.<precision>`."""
    counted = [each for those in results.values() for each in those] + ([teacher] if teacher else [])
    known = {row.sha256 for each in counted for row in each.rows}
    found: dict[str, dict[str, float]] = {}
    for row in report.rows:
        name, _, precision = row.role.rpartition(".")
        number = row.numbers.get("latency_p50")
        if row.sha256 in known and number is not None and number.value is not None:
            found.setdefault(name, {})[precision] = number.value
    return found


def _conditions(report: Report) -> str:
    threads = report.rows[0].conditions.get("threads")
    return (
        f"Latency: all files in turn, batch {report.suite.latency.batch}, {threads} thread{'s' * (threads != 1)}, "
        f"{figures.processor(report.device)}, onnxruntime {report.versions.get('onnxruntime')}, "
        f"load {report.device.get('load')} before it, {report.created[:10]}."
    )
