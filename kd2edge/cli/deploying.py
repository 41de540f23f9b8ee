"""The commands `export` and `bench`, here or on another machine."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd2edge.cli import printing
from kd2edge.cli.options import Data, Json, Preprocess, Source, Suite, Target, Task, TestData
from kd2edge.cli.terminal import Terminal

if TYPE_CHECKING:  # a command's help needs no onnx
    from kd2edge.verbs.remote import Elsewhere

On = Annotated[
    str | None, typer.Option("--on", metavar="SSH", help="Work on ssh://[user@]host[:port] [the target's `on`].")
]
Kit = Annotated[Path | None, typer.Option("--kit", metavar="FOLDER", help="Write a kit to carry there instead.")]
From = Annotated[Path | None, typer.Option("--from", metavar="FOLDER", help="Take up a kit's results.")]
Sign = Annotated[str | None, typer.Option("--sign", metavar="KEY", help="Sign what is made (kd2edge keys).")]


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
    on: On = None,
    kit: Kit = None,
    brought: From = None,
    sign: Sign = None,
    json: Json = False,
) -> None:
    """Write what ships, proved equal on real images."""
    from kd2edge.verbs.engines import target_of
    from kd2edge.verbs.export import export as verb

    terminal: Terminal = ctx.obj
    options: dict[str, Any] = {"target": target, "out": out, "data": data, "preprocess": preprocess, "task": task}
    words = printing.again("export", source, onnx=onnx, trt=trt, **options, on=on, sign=sign)
    terminal.resume = _resume(words, kit, brought)
    asked = trt or any(option is not None for option in (on, kit, brought))  # ONNX files alone are made here
    name = target if target or not trt else target_of(source)
    place = _place(source, name, on, kit, brought, terminal, words) if asked else None
    options |= {"onnx": onnx, "trt": trt}
    if place is None:
        made = verb(source, **options, progress=terminal, sign=sign)
    else:
        from kd2edge.verbs.remote import KitWritten
        from kd2edge.verbs.remote_export import export_elsewhere

        try:
            made = export_elsewhere(source, place, sign, **options)
        except KitWritten as written:
            _tell_kit(terminal, written.folder, written.command, words)
            return
    for artifact in made:
        terminal.say(f"{artifact.manifest.precision.upper()}: {artifact.path}")
    terminal.answer([printing.artifact(artifact) for artifact in made])


def bench(
    ctx: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="RUN|MODEL.onnx...")],
    suite: Suite = None,
    target: Target = None,
    data: TestData = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The report [RUN/report.json].")] = None,
    preprocess: Preprocess = None,
    task: Task = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="In a fraction of the time; speed then decides nothing.")
    ] = False,
    on: On = None,
    kit: Kit = None,
    brought: From = None,
    json: Json = False,
) -> None:
    """Measure accuracy, latency, size: a report, a page."""
    from kd2edge.report.table import report_table
    from kd2edge.verbs.bench import bench as verb

    terminal: Terminal = ctx.obj
    given = {"suite": suite, "target": target, "data": data, "out": out, "preprocess": preprocess, "task": task}
    words = printing.again("bench", *sources, **given, quick=quick, on=on)
    terminal.resume = _resume(words, kit, brought)
    place = _place(sources[0], target, on, kit, brought, terminal, words)
    if place is None:
        report = verb(sources, **given, progress=terminal, quick=quick)  # type: ignore[arg-type]
    else:
        from kd2edge.verbs.remote import KitWritten
        from kd2edge.verbs.remote_bench import bench_elsewhere

        try:
            report = bench_elsewhere(sources, place, **given, quick=quick)
        except KitWritten as written:
            _tell_kit(terminal, written.folder, written.command, words)
            return
    terminal.show(report_table(report))
    terminal.answer(report.model_dump(mode="json"))


def _resume(words: str, kit: Path | None, brought: Path | None) -> str:
    """The same command, for which `--kit` and `--from` are part of what was asked."""
    return " ".join([words, *(f"--{k} {shlex.quote(str(v))}" for k, v in (("kit", kit), ("from", brought)) if v)])


def _place(
    source: Path,
    target: str | None,
    on: str | None,
    kit: Path | None,
    brought: Path | None,
    terminal: Terminal,
    again: str,
) -> "Elsewhere | None":
    """Where the work is to be done, None for here; by default where the target says that its device is."""
    from kd2edge.verbs.remote import elsewhere

    return elsewhere(source, target, on, kit, brought, terminal, again)


def _tell_kit(terminal: Terminal, folder: Path, command: str, again: str) -> None:
    """How to go on: there by one command, then here by another."""
    terminal.say(f"The kit is in {folder}. Copy it to the device, and run there, beside it:\n  {command}")
    terminal.say(f"Then bring back its folder `results`:\n  {again} --from RESULTS")
    terminal.answer({"kit": str(folder), "command": command, "then": f"{again} --from RESULTS"})
