"""How a recipe's numbers went over time: a line for each moment in the terminal, a picture for each metric."""

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.files import write_atomic
from kd2edge.report import figures, plot
from kd2edge.report.model import Number
from kd2edge.schema import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 12  # moments that are named along an axis
LONGEST = 24  # letters of such a name


class Moment(Section):
    """One report: `name` is its commit or run, `said` the commit's subject, `numbers` are by role and metric.

    `differences` are the conditions that changed since the moment before.
    """

    name: str
    created: str
    said: str = ""
    numbers: dict[str, dict[str, Number]]
    differences: tuple[str, ...] = ()


class History(Section):
    """Moments from the first to the last, of one suite and target; `notes` say which reports were left out."""

    source: str
    suite: str
    target: str
    metrics: tuple[str, ...]
    moments: tuple[Moment, ...]
    notes: tuple[str, ...] = ()

    @property
    def roles(self) -> list[str]:
        """Every role of any moment, in the order of first appearance."""
        return list(dict.fromkeys(role for moment in self.moments for role in moment.numbers))


def history_table(found: History) -> RenderableType:
    """For each role a table: a line a moment, a column a metric."""
    parts: list[RenderableType] = []
    for role in found.roles:
        table = Table(title=Text(role), title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in ("", "", *(_title(found, metric) for metric in found.metrics)):
            table.add_column(name.replace(" ", "\n"), justify="right" if name else "left", no_wrap=True)
        for moment in found.moments:
            numbers = moment.numbers.get(role, {})
            cells = (figures.value(numbers.get(metric)) for metric in found.metrics)
            table.add_row(Text(moment.name), Text(moment.created[:10], "dim"), *cells)
        parts += [table, Text("")]
    return Group(*parts, *(Text(f"? {note}", style="yellow") for note in found.notes))


def write_history(found: History, path: Path) -> Path:
    """Write the page. Raises `UserError` when `path` cannot be written."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    pictures = [Markup(drawn) for metric in found.metrics if (drawn := picture(found, metric))]
    text = environment.get_template("history.html").render(
        found=found, pictures=pictures, figures=figures, title=lambda metric: _title(found, metric)
    )
    return write_atomic(path, text.encode())


def picture(found: History, metric: str) -> str | None:
    """A metric over the moments, a line for each role, whiskers where there are intervals; None where it never was.

    A vertical line stands before each moment whose conditions are not those of the one before.
    """
    from matplotlib.ticker import FixedLocator

    lines = {role: points for role in found.roles if (points := _points(found, role, metric))}
    if not lines:
        return None
    figure, axes = plot.canvas(6.4, 2.6)
    for role, points in lines.items():
        _line(axes, role, points, found.roles.index(role))
    for place, moment in enumerate(found.moments):
        if moment.differences and place:
            axes.axvline(place - 0.5, color=plot.GRID, linewidth=1.2, linestyle=(0, (2, 2)))
    step = -(-len(found.moments) // MOST_NAMED)
    named = range(0, len(found.moments), step)
    axes.xaxis.set_major_locator(FixedLocator(list(named)))
    names = [_short(found.moments[place].name) for place in named]
    axes.set_xticks(list(named), names, rotation=30, ha="right", parse_math=False)
    axes.set_ylabel(_title(found, metric))
    plot.legend(axes)
    return plot.svg(figure, _told(found, metric, lines))


def _short(name: str) -> str:
    """The end of a long name, which tells it from others: the drawing has no room for all of it."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


Points = list[tuple[int, Number]]


def _points(found: History, role: str, metric: str) -> Points:
    numbers = ((place, moment.numbers.get(role, {}).get(metric)) for place, moment in enumerate(found.moments))
    return [(place, number) for place, number in numbers if number is not None and number.usable]


def _line(axes: "Axes", role: str, points: Points, place: int) -> None:
    colour = plot.SERIES[place % len(plot.SERIES)]
    style = plot.DASHES[place % len(plot.DASHES)]
    across = [at for at, _ in points]
    values = [number.value or 0.0 for _, number in points]
    axes.plot(across, values, color=colour, linestyle=style, linewidth=1.5, marker="o", markersize=3.5, label=role)
    for at, number in points:
        axes.errorbar(at, number.value or 0.0, yerr=plot.whisker(number), color=colour, linewidth=1, capsize=3)


def _title(found: History, metric: str) -> str:
    numbers = (numbers.get(metric) for moment in found.moments for numbers in moment.numbers.values())
    unit = next((number.unit for number in numbers if number is not None), "")
    return " ".join([figures.name(metric), unit if unit != "1" else ""]).rstrip()


def _told(found: History, metric: str, lines: dict[str, Points]) -> str:
    """What the drawing shows, for who cannot see it."""
    ends = [f"{role} from {figures.value(p[0][1])} to {figures.value(p[-1][1])}" for role, p in lines.items()]
    return f"{_title(found, metric)} over {len(found.moments)} reports: {', '.join(ends)}"
