"""Real images for calibration and parity: those a manifest names (in a run, its recipe's), or a folder of classes."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from kd2edge.artifact import Artifact
from kd2edge.data import Ints, Source, Split, normalize, open_source, shorter_side
from kd2edge.errors import UserError
from kd2edge.graph.load import load_model
from kd2edge.graph.parity import run_onnx
from kd2edge.graph.signature import image_input
from kd2edge.schema import Plugin, Preprocessing, TaskName
from kd2edge.verbs.models import Say, preprocessing_of

Floats = npt.NDArray[np.float32]

BATCH = 32  # images in memory at a time
SAMPLES = 128  # images that parity is proved on


class Batches:
    """Normalised images float32 [B, C, H, W] of a split, read anew each time they are iterated.

    `group` is how many a model takes at once: each B is a multiple of it, and images that fill no group are left out.
    """

    def __init__(self, split: Split, index: Ints, preprocessing: Preprocessing, group: int = 1) -> None:
        self._split, self._preprocessing = split, preprocessing
        self._index = index[: len(index) // group * group]
        self._at_once = max(group, BATCH // group * group)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._index)

    def __iter__(self) -> Iterator[Floats]:
        for start in range(0, len(self._index), self._at_once):
            yield normalize(self._split.read(self._index[start : start + self._at_once]), self._preprocessing)


def data_for(model: Artifact, folder: Path | None) -> Plugin:
    """The data section for a model: `folder` read with the model's own preprocessing, or what its manifest names.

    Raises `UserError` when there is neither.
    """
    if folder is not None:
        p = preprocessing_of(model)
        options = {"path": str(folder.resolve()), "size": p.size, "color": p.color, "mean": p.mean, "std": p.std}
        return Plugin.model_validate({"name": "imagefolder", **options, "resize": shorter_side(p)})
    if model.manifest.data is None:
        raise UserError(
            f"{model.path} names no data set, and real images are needed.",
            "give --data FOLDER with class folders under train/ and test/",
        )
    return model.manifest.data


def open_data(data: Plugin) -> Source:
    return open_source({"name": data.name, **data.options})


def training_batches(model: Artifact, source: Source, images: int, seed: int, say: Say) -> Batches:
    """At most `images` training images, drawn by `seed`; test images where there are no others, which is told.

    Where the model's batch is fixed they fill groups of it, one at the least; `UserError` where there are too few.
    """
    try:
        split = source.split("train")
    except UserError as fault:
        say(f"{fault.message} Calibration uses images that the model is also judged on.")
        split = source.split("test")
    return _drawn(model, split, images, seed)


def test_samples(model: Artifact, source: Source) -> Floats:
    """The images float32 [N, C, H, W] on which an export proves parity; the same ones on every call."""
    return np.concatenate(list(batches_of(model, source, "test", SAMPLES)))


def batches_of(model: Artifact, source: Source, split: str, images: int) -> Batches:
    """At most `images` images of a split, the same ones on every call, in groups as `training_batches`."""
    return _drawn(model, source.split(split), images, 0)


def probe_of(model: Artifact) -> dict[str, Floats]:
    """The probe beside a trained model: `inputs` float32 [N, C, H, W], `labels` [N], and torch's `reference` [N, D].

    Raises `UserError` if it is missing or unreadable.
    """
    path = model.path.with_suffix(".probe.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"The probe {path} cannot be read: {error}.", "make the run again") from error


def completed(model: Artifact, data: Plugin, source: Source, task: str | None) -> Artifact:
    """A model with its data and its task: its manifest's, else the one stated, else classification.

    Raises `UserError` for a task that contradicts the manifest, and for a classifier that has not as many outputs as
    the data has classes: it may be an embedding, but then somebody has to say so.
    """
    if task is not None and task not in get_args(TaskName):
        raise UserError(f"There is no task {task!r}.", " or ".join(get_args(TaskName)))
    known = model.manifest.task
    if known is not None and task not in (None, known):
        raise UserError(f"The manifest of {model.path} says {known}, not {task}.", "leave --task out")
    stated = {} if known is not None else _embedding() if task == "verification" else _classifier(model, source)
    return Artifact(model.path, model.manifest.model_copy(update={"data": data, **stated}))


def _embedding() -> dict[str, object]:
    return {"task": "verification", "output": "embedding"}


def _classifier(model: Artifact, source: Source) -> dict[str, object]:
    split = source.split("test")
    image = normalize(split.read(np.zeros(1, np.int64)), preprocessing_of(model))
    outputs = run_onnx(model.path, np.repeat(image, fixed_batch(model) or 1, axis=0)).shape[-1]
    classes = len(split.classes)
    if outputs != classes:
        raise UserError(
            f"{model.path.name} has {outputs} outputs, but the data has {classes} classes.",
            "name the data it classifies, or say --task verification if its outputs are an embedding",
        )
    return {"task": "classification", "output": "logits", "classes": tuple(split.classes)}


def fixed_batch(model: Artifact) -> int | None:
    """How many images an ONNX file takes at once, or None where its batch is free."""
    return image_input(load_model(model.path)).batch


def _drawn(model: Artifact, split: Split, images: int, seed: int) -> Batches:
    order = np.random.default_rng(seed).permutation(len(split))
    group = fixed_batch(model) or 1
    drawn = Batches(split, order[: max(images, group)].astype(np.int64), preprocessing_of(model), group)
    if len(split) < group:
        raise UserError(
            f"{model.path.name} takes {group} images at once, and there are only {len(split)}.",
            "give more images, or export it with a free batch",
        )
    return drawn
