"""A study's table, written once: the same cells for the terminal and for Markdown."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.report.figures import name as metric_name
from kd2edge.report.spread import Spread
from kd2edge.report.study import Line, Summary

NONE = "–"
COST = ("parameters", "MACs", "p50 ms FP32", "p50 ms INT8", "training min", "training images/s")


def grid(summary: Summary) -> list[dict[str, str]]:
    """The lines as text by column, the teacher's first."""
    metric = f"{metric_name(summary.metric)}{f' {summary.unit}' if summary.unit else ''}"
    teacher = [_cells(summary.teacher, metric, 1, summary.against)] if summary.teacher else []
    return teacher + [_cells(line, metric, len(summary.seeds), summary.against) for line in summary.lines]


def _cells(line: Line, metric: str, wanted: int, against: str) -> dict[str, str]:
    return {
        "row": line.row,
        f"{metric} FP32": _spread(line.fp32),
        f"{metric} INT8": _spread(line.int8),
        "gap closed %": _number(line.gap_closed, ".0f"),
        f"over {against} σ": _number(line.over, "+.1f"),
        "n": f"{len(line.done)}/{wanted}",
        "no seed": _absent(line),
        "parameters": _number(line.parameters, ",.0f"),
        "MACs": _number(line.macs, ",.0f"),
        "p50 ms FP32": _number(line.p50.get("fp32"), ".3f"),
        "p50 ms INT8": _number(line.p50.get("int8"), ".3f"),
        "training min": _number(line.minutes, ",.1f"),
        "training images/s": _number(line.images_per_second, ",.0f"),
    }


def further(summary: Summary) -> list[dict[str, str]]:
    """The further metrics as text by column, the teacher's first; nothing where the study names none."""
    lines = [line for line in (*([summary.teacher] if summary.teacher else []), *summary.lines) if line.done]
    return [_further(line) for line in lines if line.also]


def _further(line: Line) -> dict[str, str]:
    cells = {"row": line.row}
    for metric, (fp32, int8) in line.also.items():
        cells |= {f"{metric} FP32": _spread(fp32), f"{metric} INT8": _spread(int8)}
    return cells


def notes(summary: Summary) -> list[str]:
    """What stands beneath: the conditions, what is missing, and the command."""
    return [*summary.conditions, *_left(summary), f"Made by: {summary.command}"]


def _left(summary: Summary) -> list[str]:
    """What is to be done yet; the column `no seed` says of which row."""
    done, wanted = summary.trials
    cells, there = len(summary.lines) * len(summary.seeds), sum(len(line.done) for line in summary.lines)
    left = [f"{wanted - done} of {wanted} trials"] * (done < wanted) + [f"{cells - there} of {cells} cells"] * (
        there < cells
    )
    return [f"Not there: {', '.join(left)}."] if left else []


def markdown(summary: Summary) -> str:
    """The table, its best row bold, and its notes."""
    rows, about = grid(summary), {line.row: line.about for line in summary.lines}
    lines = [["row", "what it is", *list(rows[0])[1:]], ["---"] * (len(rows[0]) + 1)]
    for row in rows:
        mark = "**" if row["row"] in _best(summary) else ""
        cells = [cell if cell in ("", NONE) else f"{mark}{cell}{mark}" for cell in row.values()]
        lines.append([cells[0], about.get(row["row"], ""), *cells[1:]])
    more = further(summary)
    also = [list(more[0]), ["---"] * len(more[0]), *(list(row.values()) for row in more)] if more else []
    told = [f"* {note}" for note in notes(summary)]
    return "\n".join([*_piped(lines), "", *_piped(also), *([""] if also else []), *told])


def _piped(lines: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in lines]


def study_table(summary: Summary) -> RenderableType:
    """The same for the terminal, in tables that fit 80 columns: what it is worth, by all metrics, and what it costs."""
    rows = grid(summary)
    worth = [name for name in rows[0] if name not in COST and (name != "no seed" or any(row[name] for row in rows))]
    more = further(summary)
    tables = [_table(rows, worth, _best(summary)), *([_table(more, list(more[0]), _best(summary))] if more else [])]
    spaced = [part for table in (*tables, _table(rows, ["row", *COST], _best(summary))) for part in (table, Text(""))]
    told = [Text(note, style="dim") for note in notes(summary)]
    return Group(Text(summary.about, style="bold"), Text(""), *spaced, *told)


def _table(rows: list[dict[str, str]], names: list[str], best: set[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in names:
        first, _, rest = name.partition(" ")
        figures = name != "row"
        table.add_column(f"{first}\n{rest}", justify="right" if figures else "left", no_wrap=figures, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names), style="bold" if row["row"] in best else "")
    return table


def _best(summary: Summary) -> set[str]:
    return {line.row for line in summary.lines if line.best}


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _spread(found: Spread | None) -> str:
    if found is None:
        return NONE
    return f"{found.mean:.2f}" + (f" ± {found.std:.2f}" if found.std is not None else "")


def _absent(line: Line) -> str:
    """The seeds that are not in the figures, and why where they were tried."""
    told = [*map(str, line.missing), *(f"{seed} stale" for seed in line.stale)]
    return ", ".join([*told, *(f"{seed} failed" for seed in line.failed)])
