"""Ranges of activations, from images run through the float model batch by batch in ONNX Runtime."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from kd2edge.errors import UserError
from kd2edge.graph.histogram import Channels, Extremes
from kd2edge.graph.run import run, session
from kd2edge.graph.signature import Input, image_input

Images = NDArray[np.float32]

COMMON, FAR = 0.99, 100.0
AT_ONCE = 8  # all watched tensors of so many images are in memory together, however large the batches are


def collect(model: ModelProto, tensors: Iterable[str], batches: Iterable[Images]) -> tuple[dict[str, Channels], int]:
    """What each named tensor, and the input, holds over `batches` of images (float32 [N, C, H, W]); their number.

    Raises `UserError` when there are no images, when they are all one constant, when their shape is not the model's,
    when a tensor is not finite, or when some pixels lie far beyond all others.
    """
    given = image_input(model).name
    watched = {name: Channels() for name in [given, *tensors]}
    images = observe(model, watched, batches)
    _refuse_outliers(watched[given])
    return watched, images


def _refuse_outliers(pixels: Channels) -> None:
    """Of a camera's pixels one in a hundred is more than a hundredth of the largest: a byte has but 255 steps."""
    counts = np.cumsum(pixels.magnitudes)
    common = (int(np.searchsorted(counts, COMMON * counts[-1])) + 1) * pixels.width
    if counts[-1] and pixels.largest > FAR * common:
        raise UserError(
            f"The largest calibration pixel is {pixels.largest:g}, while 99 % of them stay below {common:.3g}.",
            "an image is damaged, or not normalised as the others are",
        )


def part(batches: Iterable[Images], held_out: bool, group: int) -> Iterator[Images]:
    """Three of four images of each batch, or the fourth that is held out; `group` neighbours stay together."""
    seen = 0
    for batch in batches:
        fourth = (seen + np.arange(len(batch))) // group % 4 == 3
        seen += len(batch)
        if (fourth == held_out).any():
            yield batch[fourth == held_out]


def observe(model: ModelProto, watched: Mapping[str, Extremes], batches: Iterable[Images]) -> int:
    """Feed every batch through `model` and show each observer its tensor; the number of images seen.

    Raises `UserError` for unusable images, and where one of these tensors, or the output, is not finite.
    """
    given = image_input(model)
    names = [name for name in watched if name != given.name]
    fetched = list(dict.fromkeys([*names, model.graph.output[0].name]))  # the output is checked, watched or not
    opened = session(_giving(model, names))
    pixels = Extremes()
    images = 0
    for batch in batches:
        _check(batch, given)
        pixels.update(batch)
        for start in range(0, len(batch), given.batch or AT_ONCE):
            part = batch[start : start + (given.batch or AT_ONCE)]
            results = run(opened, part, fetched)
            for name, values in [(given.name, part), *zip(fetched, results, strict=True)]:
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
