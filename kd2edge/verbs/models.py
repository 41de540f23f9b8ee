"""The model a verb is given: a run's, one with a manifest, or a foreign ONNX file of which a manifest is deduced.

Only what can be read off the graph is deduced (precision, size, channels); the constants of preprocessing cannot be,
so that they are assumed, and the assumption is told.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from kd2edge.artifact import Artifact, Manifest, ancestors, has_manifest, open_artifact
from kd2edge.data import decoder_name
from kd2edge.data.imagefolder import MEAN, STD
from kd2edge.errors import UserError
from kd2edge.files import sha256
from kd2edge.graph.load import load_model
from kd2edge.graph.signature import image_input
from kd2edge.schema import Precision, Preprocessing

Say = Callable[[str], None]

GIVEN = "given"  # the verb of a manifest that is deduced, not found
CONVENTIONS = ("imagenet", "minus-one-one", "zero-one", "raw")


def is_run(path: Path) -> bool:
    """Whether a verb's argument is meant as a run directory (which may still turn out to hold none)."""
    return path.is_dir()


def open_model(path: Path, convention: str | None, say: Say) -> Artifact:
    """The model with its manifest, or for a foreign file with the manifest deduced from it (nothing is written).

    `convention` is one of `CONVENTIONS`, for files without a manifest only. Raises `UserError` for a missing, damaged
    or altered file, and for a convention that would contradict a manifest.
    """
    if not has_manifest(path):
        return _foreign(path, convention, say)
    if convention is not None:
        raise UserError(f"{path} has a manifest, which states its preprocessing.", "leave --preprocess out")
    return open_artifact(path)


def refuse_for_a_run(**options: object) -> None:
    """Raise `UserError` for options that a run states in its recipe and its layout: two statements could differ."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name} goes with a MODEL.onnx; a run has its own.", f"leave --{name} out")


def preprocessing_of(model: Artifact) -> Preprocessing:
    """How images become the model's input. Raises `UserError` if its manifest does not say."""
    stated = model.manifest.preprocessing
    if stated is None:
        raise UserError(f"The manifest of {model.path} states no preprocessing.", "make the file again with kd2edge")
    return stated


def inherited(parent: Artifact) -> dict[str, Any]:
    """The fields of a manifest that no change of precision touches, and the ancestors of what is made of it alone."""
    fields = ("task", "output", "classes", "preprocessing", "data")
    return {"lineage": ancestors(parent), **{field: getattr(parent.manifest, field) for field in fields}}


def precision_of(model: ModelProto) -> Precision:
    """What the graph itself states: INT8 by its Q/DQ nodes, FP16 by its weights."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if half else "fp32"


def _foreign(path: Path, convention: str | None, say: Say) -> Artifact:
    model = load_model(path)
    precision = precision_of(model)
    manifest = Manifest(
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        kind="onnx",
        role=precision,
        verb=GIVEN,
        precision=precision,
        preprocessing=_assumed(model, path, convention, say),
    )
    return Artifact(path, manifest)


def _assumed(model: ModelProto, path: Path, convention: str | None, say: Say) -> Preprocessing:
    given = image_input(model)
    if given.channels not in (1, 3):
        raise UserError(
            f"{path} takes images of {given.channels} channels.", "images have 1 (grey) or 3 (RGB) channels"
        )
    if convention is None:
        convention = "imagenet" if given.channels == 3 else "zero-one"
        other = " or ".join(name for name in CONVENTIONS if name != convention)
        say(f"{path.name} has no manifest: {convention} preprocessing is assumed (--preprocess {other} if not).")
    mean, std = _constants(convention, given.channels)
    return Preprocessing(
        size=given.size,
        channels=1 if given.channels == 1 else 3,
        color="L" if given.channels == 1 else "RGB",
        mean=mean,
        std=std,
        decoder=decoder_name("bilinear"),
    )


def _constants(convention: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in units of pixel / 255; raw pixels are pixel / 255 divided by 1 / 255."""
    if convention == "imagenet":
        color = "L" if channels == 1 else "RGB"
        return MEAN[color], STD[color]
    known = {"minus-one-one": (0.5, 0.5), "zero-one": (0.0, 1.0), "raw": (0.0, 1 / 255)}
    if convention not in known:
        raise UserError(f"There is no preprocessing {convention!r}.", f"one of {', '.join(CONVENTIONS)}")
    mean, std = known[convention]
    return (mean,) * channels, (std,) * channels
