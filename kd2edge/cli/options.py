"""Arguments and options that several commands share, each with its help."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Stdout ends with one JSON document; people read stderr.")]
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
Suite = Annotated[str | None, typer.Option("--suite", help="A suite's name or path [the run's, else by the model].")]
Data = Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="Class folders under train/ and test/.")]
TestData = Annotated[
    Path | None,
    typer.Option("--data", metavar="PATH", help="The suite's own test set (lfw.bin), or class folders under test/."),
]
Preprocess = Annotated[
    str | None,
    typer.Option("--preprocess", help="imagenet, minus-one-one, zero-one or raw; for a model without a manifest."),
]
Task = Annotated[
    str | None,
    typer.Option("--task", help="classification or verification; for a model without a manifest [classification]."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write instead.")]
Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="recipes targets suites studies methods models data backends")
]
Name = Annotated[str, typer.Argument(metavar="NAME")]
