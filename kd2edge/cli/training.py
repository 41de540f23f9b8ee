"""The command `distill`, and the table of where a training's time went."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.cli import printing
from kd2edge.cli.options import Json, RecipeName, Resume, RunPath, Set
from kd2edge.cli.terminal import Terminal
from kd2edge.errors import UserError
from kd2edge.kd import torchrun

if TYPE_CHECKING:  # what measures needs torch
    from kd2edge.kd.spans import Profile, Spans

NAMES = {
    "data": "waiting for images",
    "augment": "augmentation",
    "student": "student, or whatever learns",
    "loss": "losses",
    "waiting": "waiting for figures or others",
    "else": "everything else",
}


def distill(
    ctx: typer.Context,
    recipe: RecipeName = None,
    set_: Set = None,
    run: RunPath = None,
    resume: Resume = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="So many runs, a seed each, in DIR/seed-N [one, in DIR].")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell where the training's time went, and what to try.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a recipe's teacher and student into a run."""
    from kd2edge.verbs import distill as verb

    terminal: Terminal = ctx.obj
    if profile and seeds is not None:
        raise UserError("--profile looks at one training.", "leave --seeds out: each seed takes as long as the others")
    run = verb.directory(recipe, run, resume, seeds is not None)
    again = printing.again("distill", run=run, seeds=seeds, resume=True, profile=profile)
    terminal.resume = again if torchrun.count() == 1 else f"torchrun … -m -- {again}"
    overrides = tuple(set_ or ())
    if profile:
        _profiled(verb.measuring(), recipe, overrides, run, resume, terminal)
        return
    if seeds is None:
        runs = [verb.distill(recipe, overrides, run, resume, terminal)]
    else:
        runs = verb.distill_seeds(recipe, overrides, run, resume, seeds, terminal)
    if torchrun.number():  # of several processes the first one answers
        return
    for made in runs:
        terminal.say(f"Run: {made.path}")
    terminal.answer(printing.run(runs[0]) if seeds is None else [printing.run(made) for made in runs])


def _profiled(
    spans: "Spans", recipe: str | None, overrides: tuple[str, ...], run: Path, resume: bool, terminal: Terminal
) -> None:
    """Train, and tell where the time went however the training ends."""
    from kd2edge.verbs import distill as verb

    try:
        made = verb.distill(recipe, overrides, run, resume, terminal, spans)
    finally:
        terminal.close()
        terminal.show(*profiles(spans.table()))
        for sentence in spans.advice():
            terminal.say(f"Try: {sentence}")
    if torchrun.number():
        return
    if not spans.table():
        terminal.say("No stage made a second step, so nothing was measured.")
    terminal.say(f"Run: {made.path}")
    stages = [asdict(stage) for stage in spans.table()]
    terminal.answer({**printing.run(made), "profile": {"stages": stages, "advice": spans.advice()}})


def profiles(stages: "list[Profile]") -> Iterator[RenderableType]:
    """A table for each stage: the spans in the order of a step, and what they come to."""
    for stage in stages:
        table = Table(title=Text(stage.stage, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("")
        for name in ("ms a step", "share"):
            table.add_column(name, justify="right")
        for span, ms in stage.ms.items():
            if ms > 0:
                table.add_row(NAMES.get(span, span), f"{ms:,.2f}", f"{stage.share[span]:.1%}")
        table.add_section()
        table.add_row("a step", f"{sum(stage.ms.values()):,.2f}", "")
        yield table
        yield Text(
            f"{stage.images_per_second:,.0f} images/s over {stage.steps:,} steps; "
            f"the first one, {stage.first_step_seconds:.1f} s, is not among them."
        )
