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
DASHES = ((0, (7, 1.5, 1.5, 1.5)), (0, (1.5, 1.2)), "-", (0, (7, 1.8)))
LINE, LETTER = 12.0, 4.8  # points: from one label to the next, and the width of a small letter
SPREAD = 8.0  # from this ratio of the largest to the smallest on, the horizontal axis is logarithmic


def trade_off(report: Report, accuracy: str, cost: str) -> str | None:
    """Accuracy over a cost, a point for each row: its area is the file's size, its whiskers the intervals.

    Returns an SVG element, or None when no row has both numbers.
    """
    rows = [row for row in report.rows if _usable(row, accuracy) and _usable(row, cost)]
    if not rows:
        return None
    figure, axes = canvas(4.4, 3.3)
    for row in rows:
        colour = SERIES[report.rows.index(row) % len(SERIES)]
        x, y = row.numbers[cost], row.numbers[accuracy]
        axes.errorbar(*_point(x, y), xerr=whisker(x), yerr=whisker(y), color=colour, linewidth=1, capsize=2)
        axes.scatter(*_point(x, y), s=_area(row, rows), color=colour, alpha=0.85, linewidth=0, zorder=3)
    axes.margins(x=0.25, y=0.15)
    _scale(axes, [_value(row, cost) for row in rows])
    axes.set_xlabel(_title(report, cost))
    axes.set_ylabel(_title(report, accuracy))
    write_names(figure, axes, [(label(report, row.role), _value(row, cost), _value(row, accuracy)) for row in rows])
    return svg(figure, _told(report, rows, accuracy, cost))


def loss_curve(role: str, epochs: Sequence[Mapping[str, Any]]) -> str | None:
    """Loss by epoch as an SVG element, its stages told apart by lines; None when no loss was logged."""
    from matplotlib.ticker import MaxNLocator

    losses = [_finite(epoch.get("loss")) for epoch in epochs]
    if all(math.isnan(loss) for loss in losses):
        return None
    figure, axes = canvas(3.4, 2.3)
    stages = [str(epoch.get("stage", "")) for epoch in epochs]
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(losses)], strict=True):
        epochs_of_stage = range(start + 1, end + 1)
        axes.plot(epochs_of_stage, losses[start:end], color=SERIES[2], linewidth=1.6, marker="o", markersize=2)
        if len(starts) > 1:
            axes.axvline(start + 0.5, color=GRID, linewidth=1)
            over = axes.get_xaxis_transform()
            axes.text(start + 0.6, 1.02, stages[start], transform=over, color=INK, fontsize=8, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    return svg(figure, f"training loss of {role}")


def label(report: Report, role: str) -> str:
    """A row's name beside its point; beside a teacher, the fp32 row is the distilled student."""
    if role == "fp32" and report.row("teacher"):
        return "distilled"
    return role.upper() if role in ("fp32", "fp16", "int8") else role


def canvas(width: float = 3.6, height: float = 2.7) -> "tuple[Figure, Axes]":
    """An empty figure of one drawing, sizes in inches: a grid, two spines, and letters that a phone can show."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=8)
    for name in (axes.xaxis.label, axes.yaxis.label):
        name.set(color=INK, size=9, parse_math=False)
    return figure, axes


def _told(report: Report, rows: list[Row], accuracy: str, cost: str) -> str:
    """What the drawing shows, for who cannot see it."""
    points = [
        f"{label(report, row.role)} {figures.told(row.numbers[accuracy])} at {figures.told(row.numbers[cost])}"
        for row in rows
    ]
    return f"{figures.name(accuracy)} against {figures.name(cost)}: {', '.join(points)}"


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


def styled(report: Report, row: Row) -> dict[str, Any]:
    """How a row's line is drawn: by colour and by dashes, so that neither is needed alone."""
    place = report.rows.index(row)
    return {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place % len(DASHES)], "linewidth": 1.5}


def legend(axes: "Axes") -> None:
    """Name the lines above the drawing, where they hide nothing."""
    names = axes.get_legend_handles_labels()[1]
    if not names:
        return
    room = axes.get_figure().get_figwidth() * 72 - 2 * LINE  # type: ignore[union-attr]
    widths = [len(name) * LETTER + 3 * LINE for name in names]
    columns = len(names) if sum(widths) <= room else max(1, int(room / max(widths)))
    drawn = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=8.5,
        labelcolor=INK, handlelength=2.6, borderpad=0, borderaxespad=0.6, columnspacing=1.2, handletextpad=0.6,
    )  # fmt: skip
    for text in drawn.get_texts():
        text.set_parse_math(False)


def write_names(figure: "Figure", axes: "Axes", points: list[tuple[str, float, float]]) -> None:
    """Write each name right of its point, or left if another lies there, pushed up where it would lie on one below."""
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    at = [tuple(float(pixels) * scale for pixels in axes.transData.transform((x, y))) for _, x, y in points]
    placed: list[tuple[float, float]] = []
    for (text, x, y), (across, up) in sorted(zip(points, at, strict=True), key=lambda pair: pair[0][2]):
        left = _is_beside(across, up, at, 1) and not _is_beside(across, up, at, -1)
        start, free = across - 6 * LINE if left else across, up
        for near, height in placed:
            if abs(near - start) < 6 * LINE:
                free = max(free, height + LINE)
        placed.append((start, free))
        axes.annotate(text, (x, y), (-11 if left else 11, free - up - 3), textcoords="offset points", color=INK,
                      fontsize=9, ha="right" if left else "left", parse_math=False)  # fmt: skip


def _is_beside(across: float, up: float, points: Sequence[tuple[float, ...]], side: int) -> bool:
    """Whether a point lies where a name on that side (1: right) would be written."""
    return any(0 < side * (x - across) < 5 * LINE and abs(y - up) < LINE for x, y in points)


def _usable(row: Row, metric: str) -> bool:
    return metric in row.numbers and row.numbers[metric].usable


def _value(row: Row, metric: str) -> float:
    return row.numbers[metric].value or 0.0


def _point(x: Number, y: Number) -> tuple[float, float]:
    return x.value or 0.0, y.value or 0.0


def whisker(number: Number) -> list[list[float]] | None:
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


def svg(figure: "Figure", description: str) -> str:
    """The drawing as one element that scales with the page, without metadata and ids that two drawings share."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", svg)
    opening = f'role="img" aria-label="{escape(description)}">'
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda found: f"<svg {found[1]} {opening}", svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.rstrip()
