"""The commands `list`, `show` and `copy`: what the drawers and shelves hold."""

from pathlib import Path
from typing import Annotated

import typer

from kd2edge.cli import printing
from kd2edge.cli.options import Json, Kind, Name
from kd2edge.cli.terminal import Terminal


def list_(ctx: typer.Context, kind: Kind = "recipes", json: Json = False) -> None:
    """Recipes, targets, suites, methods, models, data or backends."""
    from kd2edge.verbs.shelf import list_names

    terminal: Terminal = ctx.obj
    found = list_names(kind)
    terminal.show(printing.names(found))
    terminal.answer(found)


def show(ctx: typer.Context, kind: Kind, name: Name, json: Json = False) -> None:
    """Print one of them."""
    from kd2edge.verbs.shelf import find
    from kd2edge.verbs.shelf import show as verb

    terminal: Terminal = ctx.obj
    text = verb(kind, name)
    terminal.say(text.rstrip("\n"))
    terminal.answer({"file": str(find(kind, name)), "text": text})


def copy(
    ctx: typer.Context,
    kind: Kind,
    name: Name,
    to: Annotated[Path, typer.Argument(metavar="TO", help="A file or a folder.")] = Path(),
    json: Json = False,
) -> None:
    """Copy one of them, to edit it."""
    from kd2edge.verbs.shelf import copy as verb

    terminal: Terminal = ctx.obj
    path = verb(kind, name, to)
    terminal.say(f"Copied to {path}")
    terminal.answer({"file": str(path)})
