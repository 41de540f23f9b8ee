"""The command `keys`: who vouches for what ships, and whose word counts here."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.cli.options import Json
from kd2edge.cli.terminal import Terminal
from kd2edge.errors import Exit, UserError

if TYPE_CHECKING:
    from kd2edge.keys import Key
    from kd2edge.verbs.keys import Verified

SHOWN = 16  # hex digits of a key


class Action(str, Enum):
    """What `keys` can do."""

    NEW = "new"
    LIST = "list"
    TRUST = "trust"
    SIGN = "sign"
    VERIFY = "verify"


def keys(
    ctx: typer.Context,
    action: Annotated[Action, typer.Argument(help="new NAME, list, trust FILE, sign FILE... or verify FILE...")],
    items: Annotated[list[str] | None, typer.Argument(metavar="NAME|FILE...", help="A key's name, or files.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="NAME", help="The key to sign with.")] = None,
    json: Json = False,
) -> None:
    """Sign what ships, verify what came: new, trust, sign, verify."""
    from kd2edge import keys as known
    from kd2edge.verbs import keys as verb

    terminal: Terminal = ctx.obj
    given = items or []
    if key is not None and action is not Action.SIGN:
        raise UserError(f"--key means nothing to `keys {action.value}`.", "leave --key out")
    if action is Action.LIST:
        if given:
            raise UserError("`keys list` takes no name.", "kd2edge keys list")
        found = known.listed()
        terminal.show(_table(found))
        terminal.say(f"In {known.home()}")
        terminal.answer([one.model_dump() for one in found])
    elif action in (Action.NEW, Action.TRUST):
        made = verb.new(given) if action is Action.NEW else verb.trust(given)
        terminal.say(f"{made.name} {made.key[:SHOWN]} is trusted here.")
        if action is Action.NEW:
            terminal.say(f"Give to others: {known.home() / 'keys' / made.name}.pub")
        terminal.answer(made.model_dump())
    elif action is Action.SIGN:
        signed = verb.sign(given, key)
        for one in signed:
            terminal.say(f"Signed: {one.signature}")
        terminal.answer([one.model_dump() for one in signed])
    else:
        verified = verb.verify(given)
        for proof in verified:
            terminal.say(_told(proof))
        terminal.answer([proof.model_dump() for proof in verified])
        if any(proof.fault for proof in verified):
            raise typer.Exit(Exit.HOLD)


def _table(found: "list[Key]") -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for one in found:
        what = [word for word, is_so in (("own", one.private), ("trusted", one.trusted)) if is_so]
        table.add_row(Text(one.name, style="bold"), one.key[:SHOWN], ", ".join(what) or "neither own nor trusted")
    return table


def _told(proof: "Verified") -> str:
    if proof.fault or proof.key is None:
        return f"NOT VERIFIED: {proof.fault}"
    origin = f"recipe {proof.recipe[:SHOWN]}" if proof.recipe else "a file made elsewhere"
    return f"{proof.file}: signed by {proof.name} {proof.key[:SHOWN]} on {proof.time}, made from {origin}"
