"""The report and the verdict in the terminal: two narrow tables rather than one that wraps, then the answer, big."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
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

    Fits 80 columns; from 100 on each value has its 95 % interval under it.
    """
    return _ReportTable(report)


class _ReportTable:
    def __init__(self, report: Report) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = [metric for metric in figures.metrics(self.report.rows) if metric not in BRIEF]
        accuracy = [metric for metric in shown if figures.kind(metric) == "accuracy"]
        cost = [metric for metric in shown if metric not in accuracy]
        listed = [metric for metric in accuracy if metric.startswith(LISTED)]
        whole = [metric for metric in accuracy if metric not in listed]
        for metrics in filter(None, (whole, listed, cost)):
            yield _table(self.report, metrics, intervals=options.max_width >= ROOM_FOR_INTERVALS)
            yield Text("")
        yield from _notes(self.report, shown)
        yield from _faults(self.report)


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
        table.add_row(_mark(finding), finding.reason)
    return Group(table, Padding(_answer(verdict), (1, 0)))


def _mark(finding: Finding) -> Text:
    return Text(figures.MARKS[finding.says], style=f"bold {COLOURS[finding.says]}")


def _answer(verdict: Verdict) -> Text:
    word = f" {verdict.verdict.upper()} "
    answer = Text(word, style=f"bold reverse {COLOURS[verdict.verdict]}")
    if verdict.recommend:
        answer.append(f"  {verdict.recommend}", style="bold not reverse default")
    if verdict.because:
        answer.append(f"  {verdict.because}", style="not reverse not bold default")
    return answer
