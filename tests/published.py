"""The tables of docs/published.md: what others published, and beneath it what a study here measured of the same pair.

Figures of others lie in benchmarks/published.yaml. One of ours stands there when a study of that column's recipe, with
that column's nets and images, has finished the row of that name; its epochs
are told where they are not the recipe's own.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from kd2edge import drawers
from kd2edge.report.study import Summary
from kd2edge.schema import Recipe, Section
from kd2edge.verbs.cells import Plan, open_plan
from kd2edge.verbs.study_table import tabled

FACTS = Path(__file__).parents[1] / "benchmarks" / "published.yaml"
MARKS = "<!-- published: made by `make tables` -->", "<!-- end of published -->"
NOTES = "ᵃᵇᶜᵈᵉᶠ"
NONE = "–"


class Column(Section):
    """A pair of nets and the metric that tells of it; `recipe` trains it here."""

    name: str
    recipe: str
    metric: str = "top1"


class Method(Section):
    """Figures by column. `row` is the name that this method has in a study."""

    method: str
    source: str
    row: str | None = None
    figures: tuple[float | str | None, ...]


class Family(Section):
    title: str
    about: str
    columns: tuple[Column, ...]
    rows: tuple[Method, ...]
    notes: tuple[str, ...]


class Facts(Section):
    sources: dict[str, str]
    families: tuple[Family, ...]


@dataclass(frozen=True)
class Done:
    """A study as it stands, with its plan."""

    plan: Plan
    summary: Summary


def facts() -> Facts:
    return Facts.model_validate(yaml.safe_load(FACTS.read_text(encoding="utf-8")))


def studies() -> list[Done]:
    plans = [open_plan(name) for name in drawers.names("studies")]
    return [Done(plan, tabled(plan)) for plan in plans]


def put(text: str) -> str:
    """The page with its tables made anew between the marks."""
    before, rest = text.split(MARKS[0])
    done = studies()
    told = [_table(family, done) for family in facts().families]
    sources = [f"* **{name}**: {what}." for name, what in facts().sources.items()]
    made = "\n\n".join([*told, "## Sources\n\n" + "\n".join(sources)])
    return f"{before}{MARKS[0]}\n\n{made}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def _table(family: Family, done: list[Done]) -> str:
    recipes = list(dict.fromkeys(f"`{column.recipe}`" for column in family.columns))
    lines = [f"## {family.title}", "", family.about, ""]
    lines += [f"Recipe{'s' * (len(recipes) > 1)}: {', '.join(recipes)}.", ""]
    lines += [f"| method | {' | '.join(column.name for column in family.columns)} | source |"]
    lines += ["|---|" + "---|" * (len(family.columns) + 1)]
    for method in family.rows:
        figures = " | ".join(_figure(value) for value in method.figures)
        lines.append(f"| {method.method} | {figures} | {method.source} |")
        if method.row is not None:
            ours = " | ".join(measured(column, method.row, done) for column in family.columns)
            lines.append(f"| *measured here* | {ours} | `{method.row}` |")
    return "\n".join([*lines, *([""] if family.notes else []), *(f"* {note}" for note in family.notes)])


def _figure(value: float | str | None) -> str:
    return NONE if value is None else value if isinstance(value, str) else f"{value:.2f}"


def measured(column: Column, row: str, done: list[Done]) -> str:
    """Mean ± standard deviation over the seeds of every study that has finished this row, a dash where none has."""
    wanted = drawers.read_recipe(column.recipe)
    found = [_told(study, row, wanted) for study in done if _is_of(study, row, column, wanted)]
    return "; ".join(found) or NONE


def _is_of(study: Done, row: str, column: Column, wanted: Recipe) -> bool:
    """Whether a study has finished the row, of this recipe and metric, with its nets and its images unchanged."""
    plan, summary = study.plan, study.summary
    if plan.study.recipe != column.recipe or summary.metric != column.metric or row not in plan.study.rows:
        return False
    used = _recipe(plan, row)
    if used is None or summary.line(row).missing or summary.line(row).fp32 is None:
        return False
    nets = [(recipe.student, recipe.teacher and recipe.teacher.model) for recipe in (used, wanted)]
    images = [{**recipe.data.model_dump(), "path": None} for recipe in (used, wanted)]
    return nets[0] == nets[1] and images[0] == images[1]


def _recipe(plan: Plan, row: str) -> Recipe | None:
    return plan.recipe(next(cell for cell in plan.seeds() if cell.row == row))


def _told(study: Done, row: str, wanted: Recipe) -> str:
    used, spread = _recipe(study.plan, row), study.summary.line(row).fp32
    assert used is not None
    assert spread is not None
    deviation = f" ± {spread.std:.2f}" if spread.std is not None else ""
    epochs = used.train.epochs
    less = f", {epochs} of {wanted.train.epochs} epochs" if epochs != wanted.train.epochs else ""
    return f"{spread.mean:.2f}{deviation} (n {spread.n}{less}, `{study.plan.name}`)"
