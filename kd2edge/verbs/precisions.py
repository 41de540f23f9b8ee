"""Where the files of each precision lie: one INT8 file for each Q/DQ flavour, since no graph suits every runtime.

U8S8 with quantized biases is fast in ONNX Runtime on x86 and refused by TensorRT, which wants symmetric S8.
"""

from pathlib import Path
from typing import Any

from kd2edge.run import Run
from kd2edge.schema import Flavour, Precision, Target


def label(precision: Precision, flavour: Flavour) -> str:
    """What a file name says of its precision: `fp32`, `fp16`, `int8-tensorrt`."""
    return f"int8-{flavour}" if precision == "int8" else precision


def in_run(run: Run, precision: Precision, flavour: Flavour) -> Path:
    """Where the run keeps its own ONNX file of a precision; FP32 is wherever training has put it."""
    if precision == "fp32":
        return run.files("onnx").get("fp32", run.path / "student.fp32.onnx")
    return run.path / f"student.{label(precision, flavour)}.onnx"


def beside(model: Path, precision: Precision, flavour: Flavour, folder: Path | None = None) -> Path:
    """Where a file of another precision lies next to a model that belongs to no run, or in `folder`."""
    return (folder or model.parent) / f"{model.stem}.{label(precision, flavour)}.onnx"


def entry(run: Run, precision: Precision, flavour: Flavour) -> dict[str, Any] | None:
    """The newest line of the ledger about the run's file of a precision."""
    path = in_run(run, precision, flavour).resolve()
    lines = [e for e in run.events() if e["event"] == "artifact" and e["kind"] == "onnx" and e["role"] == precision]
    return next((line for line in reversed(lines) if (run.path / line["file"]).resolve() == path), None)


def digests(run: Run, target: Target) -> dict[str, str]:
    """sha256 by precision of the files that a target gets, as the ledger has them, those that are gone left out."""
    lines = {precision: entry(run, precision, target.flavour) for precision in of_target(target)}
    return {p: line["sha256"] for p, line in lines.items() if line and (run.path / line["file"]).is_file()}


def of_target(target: Target) -> list[Precision]:
    """The target's precisions, FP32 first: the others are made from it and judged against it."""
    order: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    return [precision for precision in order if precision in target.precisions or precision == "fp32"]
