"""The commands `compare` and `history`: what changed since, and how it went."""

from pathlib import Path
from typing import Annotated

import typer

from kd2edge.cli.options import Json
from kd2edge.cli.terminal import Terminal

Before = Annotated[Path, typer.Argument(metavar="RUN|REPORT")]


def compare(ctx: typer.Context, before: Before, after: Before, json: Json = False) -> None:
    """Tell what changed from one report to another."""
    from kd2edge.report.changes import changes_table
    from kd2edge.verbs.compare import compare as verb

    terminal: Terminal = ctx.obj
    found = verb(before, after)
    terminal.show(changes_table(found))
    terminal.answer(found.model_dump(mode="json"))


def history(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="REPORT|FOLDER", help="A report that git keeps, or runs.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Show this one; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The page [history.html there].")] = None,
    json: Json = False,
) -> None:
    """Draw a report's numbers over commits, or over runs."""
    from kd2edge.report.history import history_table
    from kd2edge.verbs.history import history as verb

    terminal: Terminal = ctx.obj
    found = verb(source, metric or (), out, terminal)
    terminal.show(history_table(found))
    terminal.answer(found.model_dump(mode="json"))
