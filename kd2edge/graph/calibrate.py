"""Ranges of activations, from images run through the float model batch by batch in ONNX Runtime."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from kd2edge.errors import UserError
from kd2edge.graph.histogram import Extremes, Histogram
from kd2edge.graph.run import run, session
from kd2edge.graph.scales import Calibrator, Range
from kd2edge.graph.signature import Input, image_input

Images = NDArray[np.float32]

AT_ONCE = 8  # all watched tensors of so many images are in memory together, however large the batches are


def collect(
    model: ModelProto, tensors: Iterable[str], batches: Iterable[Images], calibrator: Calibrator, signed: bool
) -> tuple[dict[str, Range], int]:
    """The range of each named tensor over `batches` of images (float32 [N, C, H, W]), and the number of images.

    `signed` says whether the ranges will become symmetric int8 or affine uint8. Raises `UserError` when there are no
    images, when they are all one constant, when their shape is not the model's, or when a tensor is not finite.
    """
    watched: dict[str, Extremes] = {name: Histogram() if calibrator == "mse" else Extremes() for name in tensors}
    images = observe(model, watched, batches)
    return {name: seen.limits(signed) for name, seen in watched.items()}, images


def observe(model: ModelProto, watched: Mapping[str, Extremes], batches: Iterable[Images]) -> int:
    """Feed every batch through `model` and show each observer its tensor; the number of images seen."""
    given = image_input(model)
    names = [name for name in watched if name != given.name]
    opened = session(_giving(model, names))
    pixels = Extremes()
    images = 0
    for batch in batches:
        _check(batch, given)
        pixels.update(batch)
        for start in range(0, len(batch), given.batch or AT_ONCE):
            part = batch[start : start + (given.batch or AT_ONCE)]
            results = run(opened, part, [*names, model.graph.output[0].name])
            for name, values in [(given.name, part), *zip(names, results, strict=False)]:
                _show(watched.get(name), name, values)
        images += len(batch)
    if images == 0:
        raise UserError("There are no calibration images.", "give a few hundred images of the kind the model will see")
    if pixels.low == pixels.high:
        raise UserError(
            f"Every calibration pixel is {pixels.low:g}, which says nothing about ranges.", "give real images"
        )
    return images


def _giving(model: ModelProto, names: list[str]) -> ModelProto:
    """A copy of `model` that also gives out the named tensors."""
    wide = ModelProto()
    wide.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return wide


def _check(batch: Images, given: Input) -> None:
    if batch.dtype != np.float32 or batch.shape[1:] != (given.channels, *given.size) or len(batch) == 0:
        raise UserError(
            f"A calibration batch is {batch.dtype} {list(batch.shape)}; the model takes float32 {list(given.shape)}.",
            "preprocess the images as the model was trained",
        )


def _show(observer: Extremes | None, name: str, values: Images) -> None:
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise UserError(
            f"The tensor {name!r} is not finite on the calibration images.",
            "the model overflows, or an image holds NaN: check weights and preprocessing",
        )
    if observer is not None:
        observer.update(values)
