"""The report as one HTML file that needs nothing else: no network, no script, legible in the dark and on paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kd2edge.files import write_atomic
from kd2edge.report import figures, plot
from kd2edge.report.model import Number, Report, Verdict

COSTS = ("latency_p50", "size")
HEADINGS = {"accuracy": "Accuracy", "speed": "Speed", "size": "Size and memory"}

Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def write_page(report: Report, verdict: Verdict | None, curves: Curves, path: Path) -> Path:
    """Write the page of a report.

    `curves` maps a role to its training log: one mapping per epoch, of which `stage` and `loss` are drawn.
    Raises `UserError` when `path` cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    text = environment.get_template("page.html").render(
        report=report,
        verdict=verdict,
        figures=figures,
        trade_offs=_trade_offs(report),
        curves=_loss_curves(curves),
        sections=_sections(report),
        conditions=_conditions(report),
    )
    return write_atomic(path, text.encode())


def _trade_offs(report: Report) -> list[Markup]:
    accuracy = figures.headline(report)
    drawn = [plot.trade_off(report, accuracy, cost) for cost in COSTS] if accuracy else []
    return [Markup(svg) for svg in drawn if svg]


def _loss_curves(curves: Curves) -> dict[str, Markup]:
    drawn = {role: plot.loss_curve(role, epochs) for role, epochs in curves.items()}
    return {role: Markup(svg) for role, svg in drawn.items() if svg}


class Line(NamedTuple):
    """One line of the full table: a metric's number in each row, and their sample count where it is the same."""

    name: str
    unit: str
    numbers: list[Number | None]
    n: int | None


def _sections(report: Report) -> list[tuple[str, list[Line]]]:
    """The full table: for each kind of metric its heading and lines."""
    every = figures.metrics(report.rows)
    return [
        (heading, [_line(report, metric) for metric in every if figures.kind(metric) == kind])
        for kind, heading in HEADINGS.items()
        if any(figures.kind(metric) == kind for metric in every)
    ]


def _line(report: Report, metric: str) -> Line:
    numbers = [row.numbers.get(metric) for row in report.rows]
    counts = {number.n for number in numbers if number and number.usable}
    n = counts.pop() if len(counts) == 1 else None
    return Line(figures.name(metric), figures.unit(report, metric), numbers, n)


def _conditions(report: Report) -> list[tuple[str, str]]:
    """Under which conditions every number was taken, as terms and their descriptions."""
    latency = report.suite.latency
    protocol = (
        f"batch {latency.batch}, one stream, a fresh process for each row; warm-up {latency.warmup_ms:g} ms, "
        f"then at least {latency.seconds:g} s and {latency.min_samples} samples"
    )
    return [
        ("Command", report.command),
        ("Created", report.created),
        ("Target", report.target),
        ("Suite", f"{report.suite_name}: {report.suite.about}"),
        ("Latency protocol", protocol),
        *((f"Device, {key.replace('_', ' ')}", _plain(value)) for key, value in report.device.items()),
        ("Versions", _plain(report.versions)),
        *((f"Conditions of {row.role}", _plain(row.conditions)) for row in report.rows if row.conditions),
    ]


def _plain(value: object) -> str:
    """A JSON value as words: no braces, no quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{str(key).replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return figures.MISSING
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e5 else str(value)
