"""The report as one HTML file that needs nothing else: no network, no script, legible in the dark and on paper."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kd2edge.files import write_atomic
from kd2edge.report import distributions, figures, mistakes, plot
from kd2edge.report.lineage import Ledger, chains, commands
from kd2edge.report.model import Finding, Number, Report, Verdict
from kd2edge.report.strip import strip

COSTS = ("latency_p50", "size")
HEADINGS = {"accuracy": "Accuracy", "speed": "Speed", "size": "Size and memory"}
GRAVITY = ("hold", "undecided", "ship", "advice")
PNG = b"\x89PNG\r\n\x1a\n"
SMALL = 64  # pixels; a narrower image is shown enlarged, its pixels sharp

Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def write_page(report: Report, verdict: Verdict | None, curves: Curves, path: Path, lineage: Ledger = ()) -> Path:
    """Write the page of a report.

    `curves` maps a role to its training log: one mapping per epoch, of which `stage` and `loss` are drawn; `lineage`
    are the run's artefact events (role, kind, file, sha256, verb, time). What a report has no traces of is left out.
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
        findings=_gravest_first(verdict),
        figures=figures,
        strip=lambda finding: Markup(strip(finding) or ""),
        small=_small,
        **_drawings(report, curves),
        **_tables(report),
        chains=chains(report, lineage),
        commands=commands(report, lineage, path.with_suffix(".json").name),
        conditions=_conditions(report),
    )
    return write_atomic(path, text.encode())


def _gravest_first(verdict: Verdict | None) -> list[Finding]:
    return sorted(verdict.findings if verdict else (), key=lambda finding: GRAVITY.index(finding.says))


def _drawings(report: Report, curves: Curves) -> dict[str, Any]:
    """Every picture as safe markup, or None; those that there are several of by title."""
    accuracy = figures.headline(report)
    trade_offs = [plot.trade_off(report, accuracy, cost) for cost in COSTS] if accuracy else []
    losses = {role: plot.loss_curve(role, epochs) for role, epochs in curves.items()}
    alone = {
        "latency": distributions.latency(report),
        "roc": mistakes.roc(report),
        "reliability": mistakes.reliability(report),
    }
    falling = any(row.numbers[accuracy].better == "lower" for row in report.rows if accuracy in row.numbers)
    return {
        "trade_offs": [Markup(svg) for svg in trade_offs if svg],
        "better": "Down" if falling else "Up",
        "curves": {role: Markup(svg) for role, svg in losses.items() if svg},
        "clocks": {title: Markup(svg) for title, svg in distributions.clocks(report).items()},
        **{name: Markup(svg) if svg else None for name, svg in alone.items()},
    }


def _tables(report: Report) -> dict[str, Any]:
    return {
        "sections": _sections(report),
        "confusions": mistakes.confusions(report),
        "confused": mistakes.confused(report),
        "classes": mistakes.classes(report),
        "classes_told": mistakes.cut(report),
    }


def _small(image: str) -> bool:
    """Whether a PNG as base64 is narrow, by its header; what is no PNG is not."""
    try:
        header = b64decode(image[:32])
    except ValueError:
        return False
    return len(header) == 24 and header.startswith(PNG) and int.from_bytes(header[16:20], "big") <= SMALL


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
    """Under which conditions every number was taken, as terms and their descriptions; each row has its own besides."""
    latency = report.suite.latency
    protocol = (
        f"batch {latency.batch}, one stream, fresh processes for each row that take turns with the others'; warm-up at "
        f"least {latency.warmup_ms:g} ms each, then together at least {latency.seconds:g} s and, as far as six times "
        f"that allows, {latency.min_samples} samples"
    )
    return [
        ("Created", report.created),
        ("Target", report.target),
        ("Suite", f"{report.suite_name}: {report.suite.about}"),
        ("Latency protocol", protocol),
        ("Intervals", f"{figures.confidence(report)} confidence each"),
        *((f"Device, {key.replace('_', ' ')}", figures.plain(value)) for key, value in report.device.items()),
        ("Versions", figures.plain(report.versions)),
    ]
