"""What a search found, told to people: accuracy against time as a picture, and every point in a table.

The same cells make the terminal's table, the Markdown and the page; the page's styles are those of a report's.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.files import write_atomic
from kd2edge.report import plot
from kd2edge.report.answer import answer, label
from kd2edge.report.figures import name as metric_name
from kd2edge.report.model import write_json
from kd2edge.schema.search import Point, Searched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["answer", "grid", "markdown", "picture", "search_table", "write_pareto"]

NONE = "–"


def write_pareto(found: Searched, folder: Path) -> Path:
    """pareto.json, pareto.md and pareto.html in `folder`; the page's path. Raises `UserError` if the disk is full."""
    write_json(found, folder / "pareto.json")
    write_atomic(folder / "pareto.md", markdown(found).encode())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    drawing = picture(found)
    page = environment.get_template("pareto.html").render(
        found=found,
        picture=Markup(drawing) if drawing else None,
        rows=grid(found),
        notes=notes(found),
    )
    return write_atomic(folder / "pareto.html", page.encode())


def grid(found: Searched) -> list[dict[str, str]]:
    """A line for each point, the fastest first; what is on the front is marked *, what ships is marked →."""
    ordered = sorted(range(len(found.points)), key=lambda index: (found.points[index].ratio, index))
    return [_cells(found, index) for index in ordered]


def _cells(found: Searched, index: int) -> dict[str, str]:
    point = found.points[index]
    score, timing = point.score, point.timing
    chosen = point.choice.int8
    left = [name for name in found.conditions.groups if name not in chosen]
    return {
        "": "→" if index == found.best else "*" if index in found.front else "",
        "graph": label(found, point),
        f"{metric_name(found.conditions.metric)} %": f"{score.value:.2f}" if score else NONE,
        "points lost": f"{score.drop:.2f} ({score.low:.2f} to {score.high:.2f})" if score else NONE,
        "cosine": f"{score.cosine:.4f}" if score else NONE,
        "p50 ms": f"{timing.p50:.3f}" if timing else NONE,
        "of FP32's": f"{timing.ratio:.3f} ({timing.ratio_low:.3f} to {timing.ratio_high:.3f})" if timing else NONE,
        "n": f"{timing.n}" if timing else NONE,
        "within": _within(found, point),
        "in float": ", ".join(left) if chosen and left else "",
    }


def _within(found: Searched, point: Point) -> str:
    kept = {"accuracy": found.budget.accurate(point), "time": found.budget.fast(point)}
    return "both" if all(kept.values()) else next((name for name, held in kept.items() if held), "neither")


def notes(found: Searched) -> list[str]:
    """What stands beneath: how points are marked, the conditions, and why a point is missing."""
    told = found.conditions
    budget = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in found.budget if value is not None)
    lines = [
        f"* on the front, → ships; {told.model} on {told.target}, {budget}; judged by {told.images}; 95 % intervals.",
        f"Timed in turns with FP32 on {told.device.get('cpu')}, load {told.device.get('load')}.",
    ]
    return lines + [f"{label(found, point)}: {point.fault}" for point in found.points if point.fault is not None]


def markdown(found: Searched) -> str:
    """The answer, the table, its notes."""
    rows = grid(found)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    table = "\n".join(f"| {' | '.join(cell.replace('*', chr(92) + '*') for cell in line)} |" for line in lines)
    return "\n".join(
        [found.answer, "", table, "", *(f"- {note.replace('*', chr(92) + '*')}" for note in notes(found)), ""]
    )


def search_table(found: Searched) -> RenderableType:
    """The front in the terminal, which has no room for all points; the answer beneath."""
    rows = [row for row in grid(found) if row[""]]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    shown = [name for name in rows[0] if name not in ("n", "in float", "cosine")] if rows else []
    for name in shown:
        table.add_column(name, justify="left" if name in ("", "graph", "within") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in shown), style="bold" if row[""] == "→" else "")
    return Group(table, Text(""), Text(found.answer, style="bold"))


def picture(found: Searched) -> str | None:
    """Accuracy over time relative to FP32 as an SVG element, the front as a line, the budgets dashed; None if empty."""
    points = [point for point in found.points if point.score is not None and point.timing is not None]
    if not points:
        return None
    figure, axes = plot.canvas(6.4, 3.9)
    front = [found.points[index] for index in found.front]
    axes.plot(*zip(*map(_place, front), strict=True), color=plot.SERIES[2], linewidth=1.2, zorder=2)
    for point in points:
        best = found.best is not None and point == found.points[found.best]
        colour = plot.SERIES[3] if best else plot.SERIES[2] if point in front else plot.SERIES[0]
        axes.errorbar(*_place(point), xerr=_time_whisker(point), color=colour, linewidth=1, capsize=2, alpha=0.6)
        axes.scatter(*_place(point), s=60 if best else 30, color=colour, linewidth=0, zorder=3)
    reference = points[0]
    _budgets(found, reference, axes)
    axes.margins(x=0.2, y=0.2)
    axes.set_xlabel("time, as a share of FP32's")
    axes.set_ylabel(f"{metric_name(found.conditions.metric)} (%)")
    named = [point for point in points if not 0 < len(point.choice.int8) < len(found.conditions.groups)]
    if found.best is not None and found.points[found.best] not in named:
        named.append(found.points[found.best])
    plot.write_names(figure, axes, [(label(found, point), *_place(point)) for point in named])
    return plot.svg(figure, f"{metric_name(found.conditions.metric)} against time")


def _place(point: Point) -> tuple[float, float]:
    return point.ratio, point.score.value if point.score else 0.0


def _time_whisker(point: Point) -> list[list[float]]:
    low, high = (point.timing.ratio_low, point.timing.ratio_high) if point.timing else (0.0, 0.0)
    return [[max(0.0, point.ratio - low)], [max(0.0, high - point.ratio)]]


def _budgets(found: Searched, fp32: Point, axes: "Axes") -> None:
    value = fp32.score.value if fp32.score else 0.0
    axes.axhline(value - found.budget.max_drop, color=plot.INK, linewidth=0.8, linestyle="--")
    limit = found.budget.max_ratio
    if found.budget.max_latency is not None and fp32.timing is not None:
        limit = found.budget.max_latency / fp32.timing.p50
    if limit is not None:
        axes.axvline(limit, color=plot.INK, linewidth=0.8, linestyle="--")
