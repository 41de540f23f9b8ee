"""The command line: it parses, calls a verb, prints what came of it. Heavy imports wait until a command needs them."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from kd2edge import __version__
from kd2edge.cli import printing
from kd2edge.cli.outcome import Verb
from kd2edge.cli.terminal import Terminal
from kd2edge.errors import Exit

app = typer.Typer(
    name="kd2edge",
    help="Distil, quantize, export and judge small vision models before they ship to the edge.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on the last line of stdout; people read stderr.")]
RecipeName = Annotated[
    str | None, typer.Argument(help="A recipe's name or path [omniglot; with --resume the run's own].")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key of the recipe; repeatable.")
]
RunPath = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The run directory [runs/RECIPE-TIME].")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue --run, or the newest run of the recipe.")]
Source = Annotated[Path, typer.Argument(metavar="RUN|MODEL.onnx")]
Target = Annotated[str | None, typer.Option("--target", help="A target's name or path [the run's own, else onnx-cpu].")]
Suite = Annotated[
    str | None, typer.Option("--suite", help="A suite's name or path [the run's own, else by the model].")
]
Data = Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="Class folders under train/ and test/.")]
Preprocess = Annotated[
    str | None,
    typer.Option("--preprocess", help="imagenet, minus-one-one, zero-one or raw; for a model without a manifest."),
]
Task = Annotated[
    str | None,
    typer.Option("--task", help="classification or verification; for a model without a manifest [classification]."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write instead.")]
Kind = Annotated[str, typer.Argument(metavar="KIND", help="recipes targets suites methods models data backends")]
Name = Annotated[str, typer.Argument(metavar="NAME")]


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


@app.command(cls=Verb)
def distill(
    ctx: typer.Context,
    recipe: RecipeName = None,
    set_: Set = None,
    run: RunPath = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train a recipe's teacher and student into a run."""
    from kd2edge.verbs import distill as verb

    terminal: Terminal = ctx.obj
    run = verb.directory(recipe, run, resume)
    terminal.resume = f"kd2edge distill --run {run} --resume"
    made = verb.distill(recipe, tuple(set_ or ()), run, resume, terminal)
    terminal.say(f"Run: {made.path}")
    terminal.answer(printing.run(made))


@app.command(cls=Verb)
def quantize(
    ctx: typer.Context,
    source: Source,
    target: Target = None,
    data: Data = None,
    calibrator: Annotated[
        str | None, typer.Option("--calibrator", help="minmax or mse [the recipe's, else mse].")
    ] = None,
    out: Out = None,
    preprocess: Preprocess = None,
    task: Task = None,
    json: Json = False,
) -> None:
    """Make INT8 of a run's student or of an ONNX file."""
    from kd2edge.verbs.quantize import quantize as verb

    terminal: Terminal = ctx.obj
    made = verb(source, target, data, calibrator, out, preprocess, task, terminal)
    terminal.say(f"INT8: {made.path}")
    terminal.answer(printing.artifact(made))


@app.command(cls=Verb)
def export(
    ctx: typer.Context,
    source: Source,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="The ONNX file of each precision of the target [default].")
    ] = False,
    trt: Annotated[bool, typer.Option("--trt", help="The engine built from each.")] = False,
    target: Target = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where the files go instead.")] = None,
    data: Data = None,
    preprocess: Preprocess = None,
    task: Task = None,
    json: Json = False,
) -> None:
    """Write what ships, proved equal on real images."""
    from kd2edge.verbs.export import export as verb

    terminal: Terminal = ctx.obj
    made = verb(source, onnx, trt, target, out, data, preprocess, task, terminal)
    for artifact in made:
        terminal.say(f"{artifact.manifest.precision.upper()}: {artifact.path}")
    terminal.answer([printing.artifact(artifact) for artifact in made])


@app.command(cls=Verb)
def bench(
    ctx: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="RUN|MODEL.onnx...")],
    suite: Suite = None,
    target: Target = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The report [RUN/report.json].")] = None,
    preprocess: Preprocess = None,
    task: Task = None,
    json: Json = False,
) -> None:
    """Measure accuracy, latency, size: a report, a page."""
    from kd2edge.report.table import report_table
    from kd2edge.verbs.bench import bench as verb

    terminal: Terminal = ctx.obj
    report = verb(sources, suite, target, data, out, preprocess, task, terminal)
    terminal.show(report_table(report))
    terminal.answer(report.model_dump(mode="json"))


@app.command(cls=Verb)
def gate(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN|REPORT")],
    baseline: Annotated[Path | None, typer.Option("--baseline", help="A report (or run) to hold it against.")] = None,
    json: Json = False,
) -> None:
    """Judge a report: exit 0 ship, 1 hold, 3 undecided."""
    from kd2edge.report.table import verdict_table
    from kd2edge.verbs.gate import gate as verb

    terminal: Terminal = ctx.obj
    verdict = verb(source, baseline, terminal)
    terminal.show(verdict_table(verdict))
    terminal.answer(verdict.model_dump(mode="json"))
    raise typer.Exit(printing.exit_code(verdict))


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
    options = "".join(f" --{name} {value}" for name, value in (("suite", suite), ("target", target)) if value)
    terminal.resume = f"kd2edge ship --run {run} --resume{options}"
    shipped = verb(recipe, tuple(set_ or ()), run, resume, suite, target, terminal)
    terminal.show(report_table(shipped.report), verdict_table(shipped.verdict))
    terminal.say(f"Page: {shipped.page}")
    verdict = shipped.verdict.model_dump(mode="json")
    terminal.answer({**verdict, "run": str(shipped.run.path), "page": str(shipped.page)})
    raise typer.Exit(printing.exit_code(shipped.verdict))


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


@app.command("list", cls=Verb)
def list_(ctx: typer.Context, kind: Kind = "recipes", json: Json = False) -> None:
    """Recipes, targets, suites, methods, models, data or backends."""
    from kd2edge.verbs.shelf import list_names

    terminal: Terminal = ctx.obj
    found = list_names(kind)
    terminal.show(printing.names(found))
    terminal.answer(found)


@app.command(cls=Verb)
def show(ctx: typer.Context, kind: Kind, name: Name, json: Json = False) -> None:
    """Print one of them."""
    from kd2edge.verbs.shelf import find
    from kd2edge.verbs.shelf import show as verb

    terminal: Terminal = ctx.obj
    text = verb(kind, name)
    terminal.say(text.rstrip("\n"))
    terminal.answer({"file": str(find(kind, name)), "text": text})


@app.command(cls=Verb)
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


@app.command(cls=Verb)
def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Say what works here, and what mends what does not."""
    from kd2edge.verbs.doctor import base_is_broken
    from kd2edge.verbs.doctor import doctor as verb

    terminal: Terminal = ctx.obj
    checks = verb()
    terminal.show(printing.checks(checks))
    terminal.answer([check.model_dump() for check in checks])
    if base_is_broken(checks):
        raise typer.Exit(Exit.ASKED_WRONGLY)


def _interrupt(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt
