"""The command line: it parses, calls a verb, prints what came of it. Heavy imports wait until a command needs them."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from kd2edge import __version__
from kd2edge.cli import comparing, contents, deploying, judging, keys, machine, printing, quantization, training
from kd2edge.cli.options import (
    Data,
    Json,
    Out,
    Preprocess,
    RecipeName,
    Resume,
    RunPath,
    Set,
    Source,
    Suite,
    Target,
    Task,
)
from kd2edge.cli.outcome import Verb
from kd2edge.cli.root import Root
from kd2edge.cli.terminal import Terminal

app = typer.Typer(
    name="kd2edge",
    cls=Root,
    help="Distil, quantize, export and judge small vision models for the edge.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point of the command `kd2edge`; a termination is treated as an interruption."""
    signal.signal(signal.SIGTERM, _interrupt)
    app(prog_name="kd2edge")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"kd2edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options that go before a verb."""


app.command(cls=Verb)(training.distill)


@app.command(cls=Verb)
def quantize(
    ctx: typer.Context,
    source: Source,
    target: Target = None,
    data: Data = None,
    calibrator: Annotated[
        str | None,
        typer.Option("--calibrator", help="auto, minmax, percentile, entropy or mse [the recipe's, else auto]."),
    ] = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train a run on in INT8, its teacher attached, instead of calibrating alone.")
    ] = False,
    out: Out = None,
    preprocess: Preprocess = None,
    task: Task = None,
    json: Json = False,
) -> None:
    """Make INT8 of a run's student or of an ONNX file."""
    from kd2edge.verbs.qat import qat as training
    from kd2edge.verbs.quantize import quantize as verb

    terminal: Terminal = ctx.obj
    if qat:
        printing.refuse_beside("--qat", data=data, calibrator=calibrator, out=out, preprocess=preprocess, task=task)
        terminal.resume = printing.again("quantize", source, qat=True, target=target)
        made = training(source, target, terminal)
    else:
        made = verb(source, target, data, calibrator, out, preprocess, task, terminal)
    terminal.say(f"INT8: {made.path}")
    terminal.answer(printing.artifact(made))


app.command(cls=Verb)(quantization.sensitivity)
app.command(cls=Verb)(quantization.search)


app.command(cls=Verb)(deploying.export)
app.command(cls=Verb)(deploying.bench)
app.command(cls=Verb)(judging.gate)
app.command(cls=Verb)(comparing.compare)
app.command(cls=Verb)(comparing.history)


@app.command(cls=Verb)
def ship(
    ctx: typer.Context,
    recipe: RecipeName = None,
    set_: Set = None,
    run: RunPath = None,
    resume: Resume = False,
    suite: Suite = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """All five in one go, from a recipe to a verdict."""
    from kd2edge.report.table import report_table, verdict_table
    from kd2edge.verbs.distill import directory
    from kd2edge.verbs.ship import ship as verb

    terminal: Terminal = ctx.obj
    run = directory(recipe, run, resume)
    terminal.resume = printing.again("ship", run=run, resume=True, suite=suite, target=target)
    shipped = verb(recipe, tuple(set_ or ()), run, resume, suite, target, terminal)
    terminal.show(report_table(shipped.report), verdict_table(shipped.verdict))
    terminal.say(f"Page: {shipped.page}")
    verdict = shipped.verdict.model_dump(mode="json")
    terminal.answer({**verdict, "run": str(shipped.run.path), "page": str(shipped.page)})
    raise typer.Exit(printing.exit_code(shipped.verdict))


@app.command(cls=Verb)
def study(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or path.")],
    row: Annotated[list[str] | None, typer.Option("--row", help="Only this row; repeatable.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; repeatable.")] = None,
    runs: Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="The runs [runs/studies].")] = None,
    results: Annotated[
        Path | None, typer.Option("--results", metavar="DIR", help="The results [benchmarks/results of its checkout].")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Only show what there is.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Only time what is finished, side by side.")] = False,
    json: Json = False,
) -> None:
    """Train rows of methods over seeds, into one table."""
    from kd2edge.report.study_table import study_table
    from kd2edge.verbs.study import study as verb
    from kd2edge.verbs.study_latency import latency as timed
    from kd2edge.verbs.study_table import table as shown

    terminal: Terminal = ctx.obj
    terminal.resume = printing.again("study", name, row=row, seed=seed, runs=runs, results=results, latency=latency)
    if table:
        made = shown(name, results)
    elif latency:
        made = timed(name, runs, results, terminal)
    else:
        made = verb(name, row or (), seed or (), runs, results, terminal)
    terminal.show(study_table(made))
    terminal.answer(made.model_dump(mode="json"))


@app.command(cls=Verb)
def predict(
    ctx: typer.Context,
    model: Source,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    preprocess: Preprocess = None,
    json: Json = False,
) -> None:
    """Classify images, or tell which are alike."""
    from kd2edge.verbs.predict import predict as verb

    terminal: Terminal = ctx.obj
    found = verb(model, images, preprocess, terminal)
    terminal.show(printing.predictions(found))
    terminal.answer([one.model_dump(mode="json") for one in found] if isinstance(found, list) else found.model_dump())


app.command(cls=Verb)(keys.keys)
app.command("list", cls=Verb)(contents.list_)
app.command(cls=Verb)(contents.show)
app.command(cls=Verb)(contents.copy)


app.command(cls=Verb)(machine.doctor)


def _interrupt(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt
