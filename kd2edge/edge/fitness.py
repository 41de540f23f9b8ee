"""Which rows and numbers a rule may be judged by at all, and which only leave it undecided: the gate fails closed."""

import math
from typing import Any

from kd2edge.edge import devices
from kd2edge.edge.asked import CANDIDATES
from kd2edge.edge.signed import unsigned
from kd2edge.report import figures
from kd2edge.report.model import Number, Report, Row
from kd2edge.schema import Rule

BASELINE = "baseline"
# What is read off the file, or is asked of these very images and processes, has no sampling error. All else is an
# estimate, also where nobody gave it an interval.
EXACT = ("size", "parameters", "macs", "peak_memory", "integer_range", "int8_ran", "cosine_to_fp32")
PROTOCOL = {"latency", "scenarios", "sweep"}  # of a suite: how timings are taken


class Unfit(Exception):
    """Why a rule cannot be judged on these numbers: it holds, with this reason."""


def bound_of(rule: Rule) -> float:
    bounds = (rule.at_least, rule.at_most, rule.drop_at_most, rule.rise_at_most, rule.ratio_at_most)
    return next((bound for bound in bounds if bound is not None), math.nan)


def title(role: str) -> str:
    return role.upper() if role in CANDIDATES else role


def is_timed(metric: str) -> bool:
    """Whether a metric depends on how busy and how fast the machine was."""
    return figures.kind(metric) == "speed"


def is_exact(metric: str, *numbers: Number) -> bool:
    """Whether numbers that came without an interval may be judged by their values."""
    return metric in EXACT and all(number.low is None and number.high is None for number in numbers)


def fit_row(report: Report, role: str, where: str = "report") -> Row:
    """The one row of that role. Raises `Unfit` where there is none or another, or it is not to be trusted."""
    found = [row for row in report.rows if row.role == role]
    if len(found) != 1:
        raise Unfit(f"the {where} has {len(found) or 'no'} row{'s' * (len(found) > 1)} {role}")
    (row,) = found
    if row.faults:
        raise Unfit(f"{title(role)} of the {where} is faulty: {'; '.join(row.faults)}")
    if not row.provider:
        raise Unfit(f"{title(role)} of the {where} does not say what ran it")
    why = unsigned(row.conditions) if where != BASELINE and report.suite.signed else None
    if why:
        raise Unfit(f"{title(role)} is not signed, as the suite {report.suite_name} requires: {why}")
    return row


def fit_number(row: Row, metric: str) -> tuple[Number, float]:
    """A row's number and its value. Raises `Unfit` where there is none, or the machine held it back."""
    number = row.numbers.get(metric)
    if number is None:
        raise Unfit(f"{title(row.role)} has no {figures.name(metric)}")
    if number.value is None or not math.isfinite(number.value):
        raise Unfit(f"{title(row.role)} has no usable {figures.name(metric)}: {number.note or number.value}")
    if is_timed(metric) and row.conditions.get("throttled"):
        raise Unfit(f"{title(row.role)} was timed on a throttled processor")
    return number, number.value


def refuse_unlike(rule: Rule, row: Row, other: Row) -> None:
    """Raise `Unfit` for two rows whose numbers do not compare: of other units, providers or images."""
    versus, name = title(str(rule.versus)), figures.name(rule.metric)
    ours, theirs = row.numbers[rule.metric].unit, other.numbers[rule.metric].unit
    if ours != theirs:
        raise Unfit(f"{name} of {title(row.role)} is in {ours!r}, of {versus} in {theirs!r}")
    if is_timed(rule.metric) and row.provider != other.provider:
        raise Unfit(f"{title(row.role)} ran on {row.provider}, {versus} on {other.provider}: timings do not compare")
    if row.conditions.get("data") != other.conditions.get("data"):
        raise Unfit(f"{title(row.role)} was measured on other images than {versus}")


def baseline_row(rule: Rule, report: Report, baseline: Report | None, row: Row) -> Row:
    """The row of the baseline that a rule compares with; for timings, of the same device and protocol.

    Raises `Unfit`.
    """
    if baseline is None:
        raise Unfit(f"{figures.name(rule.metric)} of {title(row.role)} has no baseline to be compared with")
    if baseline.target != report.target:
        raise Unfit(f"the baseline is of target {baseline.target}, the report of {report.target}")
    other = fit_row(baseline, rule.of, BASELINE)
    if figures.kind(rule.metric) != "size" and not row.conditions.get("data"):
        raise Unfit(f"{title(row.role)} does not say which images it was measured on")
    if is_timed(rule.metric):
        _refuse_elsewhere(report, baseline, row, other)
    return other


def _refuse_elsewhere(report: Report, baseline: Report, row: Row, other: Row) -> None:
    unlike = devices.difference(report.device, baseline.device)
    if unlike:
        raise Unfit(f"the baseline was measured on another device: {unlike}")
    ours, theirs = (one.suite.model_dump(include=PROTOCOL) for one in (report, baseline))
    if ours != theirs:
        changed = ", ".join(key for key in ours if ours[key] != theirs[key])
        raise Unfit(f"the baseline's timings were taken by another protocol ({changed})")
    threads, before = row.conditions.get("threads"), other.conditions.get("threads")
    if threads != before:
        raise Unfit(f"{title(row.role)} ran with {threads} threads, in the baseline with {before}")


def unsteady(rule: Rule, report: Report, row: Row) -> list[str]:
    """Why a timing of this row settles nothing, if it does not."""
    if not is_timed(rule.metric):
        return []
    doubts = ["it was measured with --quick"] if report.suite.quick else []
    steady = {_unstable(conditions) for conditions in _windows(rule.metric, row)}
    if True in steady:
        doubts.append(f"{title(row.role)} was timed while unstable")
    elif steady != {False}:
        doubts.append(f"{title(row.role)} does not say whether it was steady")
    return doubts


def _windows(metric: str, row: Row) -> list[Any]:
    """The conditions of the row, and those of the sweep's cell that a metric names: `latency_p50@b4`."""
    _, at, cell = metric.partition("@")
    swept = row.conditions.get("sweep")
    return [row.conditions, *([swept.get(cell) if isinstance(swept, dict) else None] if at else [])]


def _unstable(conditions: Any) -> bool | None:
    """None where it is not told."""
    told = conditions.get("unstable") if isinstance(conditions, dict) else None
    return told if isinstance(told, bool) else None


def too_narrow(report: Report, needed: float, where: str = "report") -> list[str]:
    """Whether the intervals of a report miss more often than the suite allows."""
    if needed - 1e-9 <= report.confidence < 1:
        return []
    return [f"the {where}'s intervals are of {100 * report.confidence:.4g} %, and {100 * needed:.4g} % are needed"]
