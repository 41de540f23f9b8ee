"""The commands `sensitivity` and `search`: where INT8 hurts, and how much of it to ship."""

from typing import Annotated

import typer

from kd2edge.cli import printing
from kd2edge.cli.options import Data, Json, Preprocess, Source, Target, Task
from kd2edge.cli.terminal import Terminal
from kd2edge.errors import Exit

Images = Annotated[int, typer.Option("--images", min=2, max=5000, help="The most images to judge by.")]


def sensitivity(
    ctx: typer.Context,
    source: Source,
    target: Target = None,
    data: Data = None,
    images: Images = 2000,
    preprocess: Preprocess = None,
    task: Task = None,
    remedies: Annotated[
        bool, typer.Option("--remedies/--no-remedies", help="Channels equalized and biases corrected, or as they came.")
    ] = True,
    json: Json = False,
) -> None:
    """Tell which layers INT8 harms, group by group."""
    from kd2edge.report.sensitivity import sensitivity_table
    from kd2edge.verbs.sensitivity import sensitivity as verb

    terminal: Terminal = ctx.obj
    again = {"target": target, "data": data, "images": images, "preprocess": preprocess, "task": task}
    terminal.resume = printing.again("sensitivity", str(source), **again, **{"no-remedies": not remedies})
    found = verb(source, target, data, images, preprocess, task, remedies, terminal)
    terminal.show(sensitivity_table(found))
    terminal.answer(found.model_dump(mode="json"))


def search(
    ctx: typer.Context,
    source: Source,
    max_drop: Annotated[float, typer.Option("--max-drop", metavar="POINTS", help="Accuracy that may be lost.")],
    max_latency: Annotated[
        float | None, typer.Option("--max-latency", metavar="MS", help="The most that an inference may take.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option("--max-latency-ratio", metavar="R", help="The same as a share of FP32's.")
    ] = None,
    target: Target = None,
    data: Data = None,
    images: Images = 2000,
    preprocess: Preprocess = None,
    task: Task = None,
    json: Json = False,
) -> None:
    """Find the fastest mix of precisions within budgets."""
    from kd2edge.report.pareto import search_table
    from kd2edge.verbs.search import search as verb

    terminal: Terminal = ctx.obj
    options = {"max-drop": max_drop, "max-latency": max_latency, "max-latency-ratio": max_latency_ratio}
    again = {"target": target, "data": data, "images": images, "preprocess": preprocess, "task": task}
    terminal.resume = printing.again("search", str(source), **options, **again)
    found = verb(source, max_drop, max_latency, max_latency_ratio, target, data, images, preprocess, task, terminal)
    terminal.show(search_table(found))
    terminal.answer(found.model_dump(mode="json"))
    raise typer.Exit(Exit.SHIP if found.best is not None else Exit.HOLD)
