"""The page's pictures as inline SVG. Colours are CSS variables of the page, so that one drawing serves light and dark.

Figures are made without pyplot (no display, no global state) and come out byte for byte the same each time.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from kd2edge.report import figures
from kd2edge.report.model import Number, Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#010101", "#020202"
SERIES = ("#030303", "#040404", "#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a")
VARIABLES = {INK: "--ink", GRID: "--grid", **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)}}
LINE = 12.0  # points from one label to the next
SPREAD = 8.0  # from this ratio of the largest to the smallest on, the horizontal axis is logarithmic


def trade_off(report: Report, accuracy: str, cost: str) -> str | None:
    """Accuracy over a cost, a point for each row: its area is the file's size, its whiskers the 95 % intervals.

    Returns an SVG element, or None when no row has both numbers.
    """
    rows = [row for row in report.rows if _usable(row, accuracy) and _usable(row, cost)]
    if not rows:
        return None
    figure, axes = _canvas(5.2, 3.7)
    for row in rows:
        colour = SERIES[report.rows.index(row) % len(SERIES)]
        x, y = row.numbers[cost], row.numbers[accuracy]
        axes.errorbar(*_point(x, y), xerr=_whisker(x), yerr=_whisker(y), color=colour, linewidth=1, capsize=2)
        axes.scatter(*_point(x, y), s=_area(row, rows), color=colour, alpha=0.85, linewidth=0, zorder=3)
    axes.margins(x=0.25, y=0.15)
    _scale(axes, [_value(row, cost) for row in rows])
    axes.set_xlabel(_title(report, cost))
    axes.set_ylabel(_title(report, accuracy))
    _label(figure, axes, [(label(report, row.role), _value(row, cost), _value(row, accuracy)) for row in rows])
    return _svg(figure, f"{figures.name(accuracy)} against {figures.name(cost)}")


def loss_curve(role: str, epochs: Sequence[Mapping[str, Any]]) -> str | None:
    """Loss by epoch as an SVG element, its stages told apart by lines; None when no loss was logged."""
    from matplotlib.ticker import MaxNLocator

    losses = [_finite(epoch.get("loss")) for epoch in epochs]
    if all(math.isnan(loss) for loss in losses):
        return None
    figure, axes = _canvas(3.4, 2.2)
    stages = [str(epoch.get("stage", "")) for epoch in epochs]
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(losses)], strict=True):
        epochs_of_stage = range(start + 1, end + 1)
        axes.plot(epochs_of_stage, losses[start:end], color=SERIES[2], linewidth=1.6, marker="o", markersize=2)
        if len(starts) > 1:
            axes.axvline(start + 0.5, color=GRID, linewidth=1)
            axes.text(start + 0.6, 1.02, stages[start], transform=axes.get_xaxis_transform(), color=INK, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    return _svg(figure, f"training loss of {role}")


def label(report: Report, role: str) -> str:
    """A row's name beside its point; beside a teacher, the fp32 row is the distilled student."""
    if role == "fp32" and report.row("teacher"):
        return "distilled"
    return role.upper() if role in ("fp32", "fp16", "int8") else role


def _canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, size=9)
    axes.yaxis.label.set(color=INK, size=9)
    return figure, axes


def _scale(axes: "Axes", costs: list[float]) -> None:
    """A logarithmic axis with plain figures for a wide spread of costs; no axis runs below zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if min(costs) > 0 and max(costs) / min(costs) >= SPREAD:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    elif axes.get_xlim()[0] < 0:
        axes.set_xlim(left=0)


def _label(figure: "Figure", axes: "Axes", points: list[tuple[str, float, float]]) -> None:
    """Write each name right of its point, pushed up where it would lie on the one below."""
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    placed: list[tuple[float, float]] = []
    for text, x, y in sorted(points, key=lambda point: point[2]):
        across, up = (float(pixels) * scale for pixels in axes.transData.transform((x, y)))
        free = up
        for near, height in placed:
            if abs(near - across) < 6 * LINE:
                free = max(free, height + LINE)
        placed.append((across, free))
        axes.annotate(text, (x, y), (11, free - up - 3), textcoords="offset points", color=INK, fontsize=9)


def _usable(row: Row, metric: str) -> bool:
    return metric in row.numbers and row.numbers[metric].usable


def _value(row: Row, metric: str) -> float:
    return row.numbers[metric].value or 0.0


def _point(x: Number, y: Number) -> tuple[float, float]:
    return x.value or 0.0, y.value or 0.0


def _whisker(number: Number) -> list[list[float]] | None:
    if number.value is None or not figures.interval(number) or number.low is None or number.high is None:
        return None
    return [[max(0.0, number.value - number.low)], [max(0.0, number.high - number.value)]]


def _area(row: Row, rows: list[Row]) -> float:
    """Marker area in square points, in proportion to the file's size; 60 where no size is known."""
    if not _usable(row, "size"):
        return 60.0
    largest = max(_value(other, "size") for other in rows if _usable(other, "size"))
    return max(24.0, 260.0 * _value(row, "size") / largest) if largest else 60.0


def _title(report: Report, metric: str) -> str:
    unit = figures.unit(report, metric)
    return f"{figures.name(metric)} ({unit})" if unit else figures.name(metric)


def _finite(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _svg(figure: "Figure", description: str) -> str:
    """The drawing as one element that scales with the page, without metadata and ids that two drawings share."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", svg)
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(description)}">', svg, count=1
    )
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.rstrip()
