"""The command `gate`: may it ship, why, and what a pull request and the next release are told."""

from pathlib import Path
from typing import Annotated

import typer

from kd2edge.cli import printing
from kd2edge.cli.options import Json
from kd2edge.cli.terminal import Terminal


def gate(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN|REPORT")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="PATH", help="A report (or run) to hold it against.")
    ] = None,
    accept: Annotated[
        Path | None, typer.Option("--accept", metavar="PATH", help="If it ships, write it here as the next baseline.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Rule by rule: what it rests on, what it lacks.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="JUnit XML; undecided is a failure.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="A summary for a pull request.")
    ] = None,
    json: Json = False,
) -> None:
    """Judge a report: exit 0 ship, 1 hold, 3 undecided."""
    from kd2edge.report.explain import explanation
    from kd2edge.report.table import verdict_table
    from kd2edge.verbs.gate import gate as verb

    terminal: Terminal = ctx.obj
    verdict = verb(source, baseline, terminal, accept, junit, markdown)
    if explain:
        terminal.show(explanation(verdict), verdict_table(verdict.model_copy(update={"findings": ()})))
    else:
        terminal.show(verdict_table(verdict))
    terminal.answer(verdict.model_dump(mode="json"))
    raise typer.Exit(printing.exit_code(verdict))
