"""What changed between two reports, told to people: a line for each number that both have, then what else differs."""

from collections.abc import Iterator
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.report import figures
from kd2edge.report.model import Number
from kd2edge.schema import Section

Moved = Literal["better", "worse", "changed", "same", "within noise", "not told"]
MARKS: dict[Moved, tuple[str, str]] = {
    "better": ("▲", "green"),
    "worse": ("▼", "red"),
    "changed": ("●", "yellow"),
    "same": ("=", "dim"),
    "within noise": ("~", "dim"),
    "not told": ("?", "yellow"),
}


class Change(Section):
    """One number before and after. Of a timing `value` is the ratio after / before, of all else the difference.

    `low`..`high` takes the two for independent. `moved` is "not told" for an estimate that lacks its interval.
    """

    role: str
    metric: str
    before: Number
    after: Number
    kind: Literal["change", "ratio"]
    value: float
    low: float | None = None
    high: float | None = None
    moved: Moved


class Compared(Section):
    """Two reports beside each other. `notes` say what could not be compared, `differences` what else changed."""

    before: str
    after: str
    confidence: float
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def changes_table(found: Compared) -> RenderableType:
    """Fits 80 columns. What did not move is counted, and in the JSON."""
    shown = [change for change in found.changes if change.moved not in ("same", "within noise")]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("", "", "", "before", "after", "change"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for change in shown:
        mark, style = MARKS[change.moved]
        unit = change.after.unit
        name = " ".join([figures.name(change.metric), unit if unit != "1" else ""]).rstrip()
        before, after = figures.value(change.before), figures.value(change.after)
        table.add_row(Text(mark, style), Text(change.role), name, before, after, Text(told(change), style))
    above: list[RenderableType] = [table, Text("")] if shown else []
    return Group(*above, *_beneath(found, len(found.changes) - len(shown)))


def told(change: Change) -> str:
    """A change with its sign, or a ratio with ×, and the interval."""
    shape = "{:.3f}×" if change.kind == "ratio" else "{:+.3g}"
    value = shape.format(change.value)
    if change.low is None or change.high is None:
        return value
    return f"{value} ({shape.format(change.low)} to {shape.format(change.high)})"


def _beneath(found: Compared, still: int) -> Iterator[Text]:
    level = f"{100 * found.confidence:.3g} %"
    yield Text(f"{still} other numbers are the same, or within the noise of {level} intervals.", style="dim")
    yield from (Text(f"? {note}", style="yellow") for note in found.notes)
    if found.differences:
        yield Text("\nWhat else changed:")
        yield from (Text(f"  {line}", style="dim") for line in found.differences)
