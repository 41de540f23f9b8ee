"""How each row's time was spread, and what the machine did meanwhile: latency by percentile, clock, temperature.

Percentiles are drawn by the nines, -log10(1 - p), as HdrHistogram does: the tail gets the room that users feel.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from kd2edge.report import figures, plot
from kd2edge.report.model import Report, Row
from kd2edge.report.traces import CLOCK, LATENCY, Clock, Series, trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = {0: "min", 50: "p50", 90: "p90", 99: "p99", 100: "max"}
RULED = (50, 90, 99)  # percentiles that have a number of their own, with an interval
GAP = 8  # times the usual step between two looks at a clock, beyond which nobody was looking
END = 2.5  # where the maximum is drawn; the 99th lies at 2


def latency(report: Report) -> str | None:
    """Latency in ms by percentile, a line for each row, whiskers at p50, p90 and p99; None where no row has a trace."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    lines = {row.role: (row, found) for row in report.rows if (found := trace(row, "latency_ms", LATENCY))}
    if not lines:
        return None
    figure, axes = plot.canvas()
    for role, (row, values) in lines.items():
        axes.plot([_nines(p) for p in range(101)], values, label=plot.label(report, role), **plot.styled(report, row))
        _whiskers(axes, report, row)
    smallest, largest = min(v[0] for _, v in lines.values()), max(v[-1] for _, v in lines.values())
    if smallest > 0 and largest / smallest >= plot.SPREAD:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks([_nines(p) for p in TICKS], list(TICKS.values()))
    axes.set_ylabel("latency (ms)")
    plot.legend(axes)
    return plot.svg(figure, f"latency by percentile: {', '.join(_told(report, row) for row, _ in lines.values())}")


def _nines(percent: float) -> float:
    return END if percent >= 100 else -math.log10(1 - percent / 100)


def _whiskers(axes: "Axes", report: Report, row: Row) -> None:
    """The percentiles that rules speak of, as points with their intervals."""
    colour = plot.styled(report, row)["color"]
    for percent in RULED:
        number = row.numbers.get(f"latency_p{percent}")
        if number is not None and number.usable and number.value is not None:
            whisker = plot.whisker(number)
            axes.errorbar(_nines(percent), number.value, yerr=whisker, color=colour, marker="o", markersize=3.5,
                          linewidth=1.2, capsize=4)  # fmt: skip


def _told(report: Report, row: Row) -> str:
    numbers = [(p, row.numbers.get(f"latency_p{p}")) for p in RULED]
    said = [f"p{percent} {figures.told(number)}" for percent, number in numbers if number is not None]
    return f"{plot.label(report, row.role)} {' '.join(said)}".rstrip()


def clocks(report: Report) -> dict[str, str]:
    """Core clock and temperature over each row's measurement, by title; without those that no row has."""
    traced = {row.role: (row, found) for row in report.rows if (found := trace(row, "clock", CLOCK))}
    drawn = {
        "Core clock": _over_time(report, traced, "mhz", "MHz"),
        "Temperature": _over_time(report, traced, "celsius", "°C"),
    }
    return {title: svg for title, svg in drawn.items() if svg}


def _over_time(report: Report, traced: Mapping[str, tuple[Row, Clock]], field: str, unit: str) -> str | None:
    found: dict[str, Series] = {r: values for r, (_, clock) in traced.items() if (values := getattr(clock, field))}
    if not found:
        return None
    figure, axes = plot.canvas()
    for role, values in found.items():
        row, clock = traced[role]
        style = plot.styled(report, row) | {"linewidth": 1.1}
        axes.plot(*_with_gaps(clock.seconds, values), label=plot.label(report, role), **style)
    low, high = min(map(min, found.values())), max(map(max, found.values()))
    room = max(0.05 * abs(high), 0.1 * (high - low)) or 1.0
    axes.set_ylim(low - room if low < 0 else max(0.0, low - room), high + room)
    axes.set_xlabel("seconds since the row began")
    axes.set_ylabel(unit)
    plot.legend(axes)
    spans = [f"{plot.label(report, role)} {min(v):.4g} to {max(v):.4g} {unit}" for role, v in found.items()]
    return plot.svg(figure, f"{field} over time: {', '.join(spans)}")


def _with_gaps(seconds: Series, values: Series) -> tuple[list[float], list[float]]:
    """The series, its line broken where nobody looked: rows are measured in turns."""
    steps = [after - before for before, after in pairwise(seconds)]
    usual = sorted(steps)[len(steps) // 2] if steps else 0.0
    across, up = [seconds[0]], [values[0]]
    for step, second, value in zip(steps, seconds[1:], values[1:], strict=True):
        if step > GAP * usual:
            across, up = [*across, math.nan], [*up, math.nan]
        across, up = [*across, second], [*up, value]
    return across, up
