"""The report and the verdict in the terminal: narrow tables rather than one that wraps, then the answer, big."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kd2edge.report import figures
from kd2edge.report.model import Finding, Report, Row, Verdict

ROOM_FOR_INTERVALS = 100  # columns; the speed table with intervals fits no narrower terminal
BRIEF = (
    "latency_mean",
    "latency_std",
    "latency_p90",
    "integer_range",
    "tar_over_far",
    "top1_over_chance",
)  # left to the page and the JSON
LISTED = ("pair_", "subgroup_")
COLOURS = {"ship": "green", "hold": "red", "undecided": "yellow", "advice": "cyan"}


def report_table(report: Report) -> RenderableType:
    """Rows by role: tables for accuracy, for that of listed pairs, for speed and size; notes and faults beneath.

    A table too wide for the terminal goes on in the next; from 100 columns on each value has its interval under it.
    What was taken under special settings is left to the page.
    """
    return _ReportTable(report)


class _ReportTable:
    def __init__(self, report: Report) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = [
            metric
            for metric in figures.metrics(self.report.rows)
            if metric not in BRIEF and not figures.special(metric)
        ]
        accuracy = [metric for metric in shown if figures.kind(metric) == "accuracy"]
        cost = [metric for metric in shown if metric not in accuracy]
        listed = [metric for metric in accuracy if metric.startswith(LISTED)]
        whole = [metric for metric in accuracy if metric not in listed]
        intervals = options.max_width >= ROOM_FOR_INTERVALS
        for metrics in (whole, listed, cost):
            while metrics:
                table, metrics = _fitting(self.report, metrics, intervals, console, options)
                yield table
                yield Text("")
        yield from _notes(self.report, shown)
        yield from _faults(self.report)
        if self.report.suite.quick:
            yield Text(figures.UNSAID, style="yellow")


def _fitting(
    report: Report, metrics: list[str], intervals: bool, console: Console, options: ConsoleOptions
) -> tuple[Table, list[str]]:
    """A table of as many metrics as there is room for, at least one, and those that are left."""
    unbound = options.update(max_width=10_000)
    for count in range(len(metrics), 1, -1):
        table = _table(report, metrics[:count], intervals)
        if Measurement.get(console, unbound, table).maximum <= options.max_width:
            return table, metrics[count:]
    return _table(report, metrics[:1], intervals), metrics[1:]


def _table(report: Report, metrics: list[str], intervals: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(_header(metric, figures.unit(report, metric)), justify="right", no_wrap=True)
    for row in report.rows:
        role = Text(row.role, style="red" if row.faults else "bold")
        table.add_row(role, *(_cell(row, metric, intervals) for metric in metrics))
    return table


def _header(metric: str, unit: str) -> Text:
    """Two lines of name, so that columns stay narrow, and one of unit."""
    first, _, second = figures.name(metric).partition(" ")
    return Text.assemble(first, "\n", second, "\n", (unit, "dim not bold"))


def _cell(row: Row, metric: str, intervals: bool) -> Text:
    number = row.numbers.get(metric)
    cell = Text(figures.value(number))
    if intervals:
        cell.append(f"\n{figures.interval(number)}", style="dim")
    return cell


def _notes(report: Report, metrics: list[str]) -> Iterator[Text]:
    """Why a number is missing; one line for all the rows that share the reason."""
    roles: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for metric in metrics:
            number = row.numbers.get(metric)
            if number is not None and not number.usable and number.note and number.note not in row.faults:
                roles.setdefault((metric, number.note), []).append(row.role)
    for (metric, note), shared in roles.items():
        yield Text(f"{figures.MISSING} {figures.name(metric)} of {', '.join(shared)}: {note}", style="dim")


def _faults(report: Report) -> Iterator[Text]:
    for row in report.rows:
        for fault in row.faults:
            yield Text(f"✗ {row.role}: {fault}", style="red")


def verdict_table(verdict: Verdict) -> RenderableType:
    """One line for each rule (✓ ship, ✗ hold, ? undecided, → advice), then SHIP, HOLD or UNDECIDED and why."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in verdict.findings:
        table.add_row(_mark(finding), Text.assemble(finding.reason, (_aside(finding), "dim")))
    return Group(table, Padding(_answer(verdict), (1, 0)))


def _mark(finding: Finding) -> Text:
    return Text(figures.MARKS[finding.says], style=f"bold {COLOURS[finding.says]}")


def _aside(finding: Finding) -> str:
    """The interval and how many more samples would decide, where the reason does not say so already."""
    interval = "" if finding.low is None or "interval" in finding.reason else figures.found(finding)
    said = "; ".join(filter(None, (interval, figures.more(finding))))
    return f" [{said}]" if said else ""


def _answer(verdict: Verdict) -> Text:
    word = f" {verdict.verdict.upper()} "
    answer = Text(word, style=f"bold reverse {COLOURS[verdict.verdict]}")
    if verdict.recommend:
        answer.append(f"  {verdict.recommend}", style="bold not reverse default")
    if verdict.because:
        answer.append(f"  {verdict.because}", style="not reverse not bold default")
    return answer
