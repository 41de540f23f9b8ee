"""The command `doctor`: what this machine can do, and whether it suits a target."""

from typing import Annotated

import typer

from kd2edge.cli import printing
from kd2edge.cli.options import Json
from kd2edge.cli.terminal import Terminal
from kd2edge.errors import Exit


def doctor(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Option("--target", help="A target's name or path: compare this machine with it.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what works here, and what mends what does not."""
    from kd2edge.verbs.doctor import base_is_broken
    from kd2edge.verbs.doctor import doctor as verb

    terminal: Terminal = ctx.obj
    checks = verb(target)
    terminal.show(printing.checks(checks))
    terminal.answer([check.model_dump() for check in checks])
    if base_is_broken(checks):
        raise typer.Exit(Exit.ASKED_WRONGLY)
