"""Ways to spoil one thing of a report, or of what it is compared with, that a rule of a given kind rests on."""

import math
from collections.abc import Callable
from typing import Any

from kd2edge.edge.fitness import is_exact, is_timed
from kd2edge.report.model import Report
from tests import judged
from tests.judged import RULES, with_comparison, with_conditions, with_number, with_row

Pair = tuple[Report, Report | None]
Spoil = Callable[[Report, Report, str], Pair]
NAN, INF = math.nan, math.inf
KINDS = set(RULES)
BASED = {name for name in RULES if name.startswith("baseline")}
VERSUS = {name for name in RULES if "versus" in RULES[name]}
BESIDE = VERSUS - BASED
TIMED = {name for name in RULES if is_timed(RULES[name]["metric"])}
EXACT = {name for name in RULES if is_exact(RULES[name]["metric"])}
COMPARED = {"drop", "rise", "ratio"}
OWN = KINDS - EXACT - COMPARED  # judged by the intervals of the numbers themselves


def metric(name: str) -> str:
    return str(RULES[name]["metric"])


def ours(**changes: Any) -> Spoil:
    """The deciding row's number spoiled."""
    return lambda report, baseline, name: (with_number(report, "int8", metric(name), **changes), baseline)


def theirs(**changes: Any) -> Spoil:
    """The number that it is compared with spoiled, in this report or in the baseline."""

    def spoil(report: Report, baseline: Report, name: str) -> Pair:
        if name in BASED:
            return report, with_number(baseline, "int8", metric(name), **changes)
        return with_number(report, "fp32", metric(name), **changes), baseline

    return spoil


def condition(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (with_conditions(report, "int8", **changes), baseline)


def their_condition(**changes: Any) -> Spoil:
    def spoil(report: Report, baseline: Report, name: str) -> Pair:
        if name in BASED:
            return report, with_conditions(baseline, "int8", **changes)
        return with_conditions(report, "fp32", **changes), baseline

    return spoil


def ours_row(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (with_row(report, "int8", **changes), baseline)


def their_row(**changes: Any) -> Spoil:
    def spoil(report: Report, baseline: Report, name: str) -> Pair:
        if name in BASED:
            return report, with_row(baseline, "int8", **changes)
        return with_row(report, "fp32", **changes), baseline

    return spoil


def whole(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (report.model_copy(update=changes), baseline)


def their_report(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (report, baseline.model_copy(update=changes))


def suite(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (
        report.model_copy(update={"suite": report.suite.model_copy(update=changes)}),
        baseline,
    )


def their_suite(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (
        report,
        baseline.model_copy(update={"suite": baseline.suite.model_copy(update=changes)}),
    )


def comparison(**changes: Any) -> Spoil:
    return lambda report, baseline, name: (with_comparison(report, metric(name), **changes), baseline)


def without(role: str) -> Spoil:
    return lambda report, baseline, name: (
        report.model_copy(update={"rows": tuple(row for row in report.rows if row.role != role)}),
        baseline,
    )


def twice(role: str) -> Spoil:
    return lambda report, baseline, name: (
        report.model_copy(update={"rows": (*report.rows, judged.row(role))}),
        baseline,
    )


def without_metric(report: Report, baseline: Report, name: str) -> Pair:
    row = report.row("int8")
    assert row is not None
    return with_row(report, "int8", numbers={k: v for k, v in row.numbers.items() if k != metric(name)}), baseline


def around_the_bound(report: Report, baseline: Report, name: str) -> Pair:
    """The number's own interval reaches beyond the bound."""
    return with_number(report, "int8", metric(name), low=-1e6, high=1e6), baseline


def bound(value: float) -> Spoil:
    def spoil(report: Report, baseline: Report, name: str) -> Pair:
        (key,) = (key for key in RULES[name] if key.startswith(("at_", "drop", "rise", "ratio")))
        (rule,) = report.suite.rules
        rules = (rule.model_copy(update={key: value}),)
        return report.model_copy(update={"suite": report.suite.model_copy(update={"rules": rules})}), baseline

    return spoil


def elsewhere(report: Report, baseline: Report, name: str) -> Pair:
    return report, baseline.model_copy(update={"device": {**judged.DEVICE, "cpu": "B"}})
