"""What a rule is judged by: a number or a difference, with the interval about it and what that was made of.

Two rows of one report are compared by the `Comparison` that was made from their samples; where there is none, and
against a baseline, whose samples are not at hand, by the intervals of the two numbers.
"""

import math
from dataclasses import dataclass

from kd2edge import stats
from kd2edge.edge.fitness import (
    BASELINE,
    Unfit,
    baseline_row,
    bound_of,
    fit_number,
    fit_row,
    is_exact,
    is_timed,
    refuse_unlike,
    title,
    too_narrow,
    unsteady,
)
from kd2edge.report import figures
from kd2edge.report.model import Comparison, Number, Report, Row
from kd2edge.schema import Rule
from kd2edge.stats import Interval

COUNTED = ("images", "identities", "subjects", "templates", "pairs", "stretches", "turns")
CLOSE = 1e-6  # between a comparison and the two values that it compares


@dataclass(frozen=True)
class Evidence:
    """A value in the sense of its rule: the number itself, or against another row the drop, the rise or the ratio.

    `interval` is about `value`: None for what is `exact`, and for an estimate that came without one. `n` counts
    `counted`. `doubts` keep a rule from shipping. `measured` is the row's own value, `reference` the other row's.
    """

    value: float
    number: Number
    measured: float
    how: str
    interval: Interval | None = None
    n: int | None = None
    counted: str = "samples"
    reference: float | None = None
    exact: bool = False
    doubts: tuple[str, ...] = ()


def gather(rule: Rule, report: Report, baseline: Report | None, needed: float) -> Evidence:
    """What `rule` is judged by; intervals of a confidence below `needed` are doubted.

    Raises `Unfit` for what no rule may be judged by.
    """
    if not math.isfinite(bound_of(rule)):
        raise Unfit(f"the bound on {figures.name(rule.metric)} of {title(rule.of)} is no number")
    row = fit_row(report, rule.of)
    if rule.versus is None:
        return _absolute(rule, report, row, needed)
    return _relative(rule, report, baseline, row, needed)


def _absolute(rule: Rule, report: Report, row: Row, needed: float) -> Evidence:
    number, value = fit_number(row, rule.metric)
    interval = _interval(number, f"{figures.name(rule.metric)} of {title(row.role)}")
    exact = is_exact(rule.metric, number)
    return Evidence(
        value=value,
        number=number,
        measured=value,
        how=number.note or ("the number's own interval" if interval else "the value alone"),
        interval=interval,
        n=number.n,
        counted=_counted(rule.metric, row, number),
        exact=exact,
        doubts=(*unsteady(rule, report, row), *(too_narrow(report, needed) if interval else ())),
    )


def _counted(metric: str, row: Row, number: Number) -> str:
    """What the `n` of a number counts, where that is known."""
    if is_timed(metric):
        return "timings"
    data = row.conditions.get("data")
    return "images" if isinstance(data, dict) and number.n == data.get("images") else "samples"


def _relative(rule: Rule, report: Report, baseline: Report | None, row: Row, needed: float) -> Evidence:
    based = rule.versus == BASELINE
    other = baseline_row(rule, report, baseline, row) if based else fit_row(report, str(rule.versus))
    theirs_from = baseline if based and baseline else report
    (number, measured), (theirs, reference) = fit_number(row, rule.metric), fit_number(other, rule.metric)
    refuse_unlike(rule, row, other)
    value = _difference(rule, measured, reference)
    doubts = [*unsteady(rule, report, row), *unsteady(rule, theirs_from, other)]
    comparison = None if based else _comparison(rule, row, value)
    n: int | None
    if comparison is not None:
        interval, n, how = _of_comparison(rule, comparison), comparison.n, comparison.how
        counted = next((word for word in COUNTED if word in how), "samples")
    else:
        interval, how = _of_both(rule, number, theirs)
        n, counted = (min(number.n, theirs.n) if number.n and theirs.n else None), "samples of both"
    if interval is not None:
        doubts += too_narrow(report, needed) + (too_narrow(theirs_from, needed, BASELINE) if based else [])
    return Evidence(
        value=value,
        number=number,
        measured=measured,
        how=how,
        interval=interval,
        n=n,
        counted="stretches of time" if counted == "stretches" else counted,
        reference=reference,
        exact=comparison is None and is_exact(rule.metric, number, theirs),
        doubts=tuple(dict.fromkeys(doubts)),
    )


def _interval(found: Number | Comparison, what: str) -> Interval | None:
    """The interval, or None where there is none at all. Raises `Unfit` for one that cannot be that of its value."""
    low, high, value = found.low, found.high, found.value
    if low is None and high is None:
        return None
    if low is None or high is None or value is None or not (math.isfinite(low) and math.isfinite(high)):
        raise Unfit(f"the interval of {what} has an end that is no number")
    slack = 1e-9 * max(1.0, abs(value))
    if not low - slack <= value <= high + slack:
        raise Unfit(f"{what} is {value:.6g}, which is not within its interval from {low:.6g} to {high:.6g}")
    return min(low, value), max(high, value)


def _difference(rule: Rule, value: float, reference: float) -> float:
    if rule.ratio_at_most is None:
        found = reference - value if rule.drop_at_most is not None else value - reference
    elif reference > 0:
        found = value / reference
    else:
        found = math.nan
    if math.isfinite(found):
        return found
    name = f"{figures.name(rule.metric)} of {title(str(rule.versus))}"
    raise Unfit(f"{name} is {reference:g}: there is no {'ratio' if rule.ratio_at_most is not None else 'change'} to it")


def _comparison(rule: Rule, row: Row, value: float) -> Comparison | None:
    """The row's comparison that the rule asks for. Raises `Unfit` for two, or one that is not of these two values."""
    kind = "change" if rule.ratio_at_most is None else "ratio"
    asked = (rule.metric, rule.versus, kind)
    found = [one for one in row.comparisons if (one.metric, one.versus, one.kind) == asked]
    if not found:
        return None
    what = f"the {kind} of {figures.name(rule.metric)} of {title(row.role)} against {title(str(rule.versus))}"
    if len(found) > 1:
        raise Unfit(f"{what} is there {len(found)} times")
    (one,) = found
    if not math.isclose(
        -one.value if rule.drop_at_most is not None else one.value, value, rel_tol=CLOSE, abs_tol=CLOSE
    ):
        raise Unfit(f"{what} is said to be {one.value:.6g}, which is not that of the two numbers")
    if one.n < 1:
        raise Unfit(f"{what} rests on no samples")
    return one


def _of_comparison(rule: Rule, comparison: Comparison) -> Interval | None:
    against = f"{title(rule.of)} against {title(str(rule.versus))}"
    return _in_its_sense(rule, _interval(comparison, f"{figures.name(rule.metric)} of {against}"))


def _of_both(rule: Rule, number: Number, theirs: Number) -> tuple[Interval | None, str]:
    """The interval of a difference from those of its two numbers, and what it was made of."""
    name = figures.name(rule.metric)
    ours, others = _interval(number, f"{name} of {title(rule.of)}"), _interval(theirs, f"{name} of {rule.versus}")
    if ours is None or others is None:
        return None, "the two values alone"
    ends = (number.value or 0.0, ours, theirs.value or 0.0, others)
    how = "the two numbers' own intervals, as if of other samples"
    if rule.ratio_at_most is not None:
        between = stats.unpaired_ratio(*ends)
    else:
        between = _in_its_sense(rule, stats.unpaired_change(*ends))
    return (between if between is not None and all(map(math.isfinite, between)) else None), how


def _in_its_sense(rule: Rule, change: Interval | None) -> Interval | None:
    """A drop is the negative of a change."""
    return (-change[1], -change[0]) if change is not None and rule.drop_at_most is not None else change
