"""What the verbs return, as documents for programs and as tables for people."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.errors import Exit, UserError

if TYPE_CHECKING:  # to print a list of recipes needs no onnx
    from kd2edge.artifact import Artifact
    from kd2edge.edge.check import Check
    from kd2edge.report.model import Verdict
    from kd2edge.run import Run
    from kd2edge.verbs.predict import Classified, Compared

COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


def artifact(made: "Artifact") -> dict[str, Any]:
    return {"path": str(made.path), **made.manifest.model_dump(mode="json")}


def run(made: "Run") -> dict[str, Any]:
    return {"run": str(made.path), "models": {role: str(path) for role, path in made.files("onnx").items()}}


def refuse_beside(flag: str, **options: object) -> None:
    """Raise `UserError` for options that are set and mean nothing beside a flag."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name} means nothing beside {flag}.", f"leave --{name} out; the run's recipe states it")


def again(*words: object, **options: Any) -> str:
    """A command as it would be typed: a list is an option given several times, what is unset is left out."""
    told = ["kd2edge", *map(str, words)]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None and each is not False:
                told += [f"--{name}"] if each is True else [f"--{name}", str(each)]
    return shlex.join(told)


def exit_code(verdict: "Verdict") -> Exit:
    return {"ship": Exit.SHIP, "hold": Exit.HOLD, "undecided": Exit.UNDECIDED}[verdict.verdict]


def names(found: Mapping[str, str]) -> RenderableType:
    table = _grid()
    for name, about in found.items():
        table.add_row(Text(name, style="bold"), Text(about))
    return table


def checks(found: Sequence["Check"]) -> RenderableType:
    table = _grid(columns=3)
    for check in found:
        detail = Text(check.detail)
        if check.mend:
            detail.append(f"\n{check.mend}", style="cyan")
        table.add_row(Text(check.says, style=COLOURS[check.says]), Text(check.name, style="bold"), detail)
    return table


def predictions(found: "list[Classified] | Compared") -> RenderableType:
    return _classified(found) if isinstance(found, list) else _compared(found)


def _classified(found: "list[Classified]") -> RenderableType:
    table = _grid(columns=3)
    for one in found:
        for place, (name, probability) in enumerate(one.top):
            table.add_row(Text(one.image if place == 0 else ""), Text(f"{100 * probability:6.2f} %"), Text(name))
    return table


def _compared(found: "Compared") -> RenderableType:
    """The images, numbered, and below them their cosines by those numbers."""
    lines = [
        Text(f"{place}  {image}\n   norm {norm:.4f}, begins {' '.join(f'{value:.4f}' for value in first)}")
        for place, (image, norm, first) in enumerate(zip(found.images, found.norms, found.first, strict=True), 1)
    ]
    if len(found.images) == 1:
        return Group(*lines)
    table = _grid(columns=1 + len(found.images))
    table.add_row("", *(Text(str(place), style="bold") for place in range(1, len(found.images) + 1)))
    for place in range(len(found.images)):
        cosines = (_cosine(found, place, other) for other in range(len(found.images)))
        table.add_row(Text(str(place + 1), style="bold"), *cosines)
    known = found.threshold is not None
    return Group(*lines, table, *([Text(f"The same above {found.threshold:.4f}, a FAR of 1e-3.")] if known else []))


def _cosine(found: "Compared", one: int, other: int) -> Text:
    """The cosine of two images, and where a threshold is known whether they are the same."""
    text = f"{found.cosine[one][other]:.4f}"
    if found.same is None:
        return Text(text)
    same = found.same[one][other]
    return Text(f"{text} {'same' if same else 'different'}", style="green" if same else "red")


def _grid(columns: int = 2) -> Table:
    table = Table.grid(padding=(0, 2))
    for column in range(columns):
        table.add_column(no_wrap=column < columns - 1, overflow="fold")
    return table
