"""Two reports number by number: what moved beyond its noise, and what cannot be told."""

from collections.abc import Iterator

from kd2edge import stats
from kd2edge.edge.differences import differences
from kd2edge.edge.fitness import is_exact, is_timed
from kd2edge.report import figures
from kd2edge.report.changes import Change, Compared, Moved
from kd2edge.report.model import Number, Report, Row

TIMES = ("ms", "img/s")  # what a faster machine changes by a factor


def compared(before: Report, after: Report, names: tuple[str, str]) -> Compared:
    """Every number that the rows of one role have in both reports, in the order of `after`.

    Accuracy is compared on the same images only. Numbers that only one report has, and faulty rows, are named.
    """
    changes: list[Change] = []
    notes: list[str] = []
    for row in after.rows:
        other = before.row(row.role)
        if other is None:
            notes.append(f"{names[0]} has no row {row.role}")
        elif row.faults or other.faults:
            notes.append(f"{row.role} is faulty: {(*row.faults, *other.faults)[0]}")
        else:
            same = row.conditions.get("data") == other.conditions.get("data")
            notes += [] if same else [f"{row.role} was measured on other images: only cost is compared"]
            changes += _of_row(row, other, same)
    notes += [f"{names[1]} has no row {row.role}" for row in before.rows if after.row(row.role) is None]
    return Compared(
        before=names[0],
        after=names[1],
        confidence=min(before.confidence, after.confidence),
        changes=tuple(changes),
        notes=tuple(notes),
        differences=differences(after, before),
    )


def _of_row(row: Row, other: Row, same_images: bool) -> Iterator[Change]:
    for metric, number in row.numbers.items():
        was = other.numbers.get(metric)
        cost = figures.kind(metric) != "accuracy"
        if was is not None and number.usable and was.usable and number.unit == was.unit and (cost or same_images):
            yield _change(row.role, metric, was, number)


def _change(role: str, metric: str, before: Number, after: Number) -> Change:
    assert before.value is not None
    assert after.value is not None
    ratio = is_timed(metric) and after.unit in TIMES and min(before.value, after.value) > 0
    value = after.value / before.value if ratio else after.value - before.value
    interval = _interval(before, after, ratio)
    exact = is_exact(metric, before, after)
    return Change(
        role=role,
        metric=metric,
        before=before,
        after=after,
        kind="ratio" if ratio else "change",
        value=value,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        moved=_moved(value, interval, 1.0 if ratio else 0.0, exact, after.better),
    )


def _interval(before: Number, after: Number, ratio: bool) -> stats.Interval | None:
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    assert before.value is not None
    assert after.value is not None
    of = stats.unpaired_ratio if ratio else stats.unpaired_change
    try:
        return of(after.value, (after.low, after.high), before.value, (before.low, before.high))
    except ValueError:  # an interval that does not hold its own value tells nothing
        return None


def _moved(value: float, interval: stats.Interval | None, none: float, exact: bool, better: str | None) -> Moved:
    """Which way a number went, seen from `none`, the value of no change."""
    if interval is None and not exact:
        return "same" if value == none else "not told"
    low, high = interval or (value, value)
    if low <= none <= high:
        return "same" if value == none else "within noise"
    if better is None:
        return "changed"
    return "better" if (value > none) == (better == "higher") else "worse"
