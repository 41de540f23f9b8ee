"""Real images for calibration and parity: those a manifest names (in a run, its recipe's), or a folder of classes."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from kd2edge.artifact import Artifact
from kd2edge.data import Ints, Source, Split, normalize, open_source
from kd2edge.errors import UserError
from kd2edge.graph.parity import run_onnx
from kd2edge.schema import Plugin, Preprocessing, TaskName
from kd2edge.verbs.models import Say, preprocessing_of

Floats = npt.NDArray[np.float32]

BATCH = 32  # images in memory at a time
SAMPLES = 128  # images that parity is proved on


class Batches:
    """Normalised images float32 [B, C, H, W] of a split, read anew each time they are iterated."""

    def __init__(self, split: Split, index: Ints, preprocessing: Preprocessing) -> None:
        self._split, self._index, self._preprocessing = split, index, preprocessing

    def __len__(self) -> int:
        """Number of images."""
        return len(self._index)

    def __iter__(self) -> Iterator[Floats]:
        for start in range(0, len(self._index), BATCH):
            yield normalize(self._split.read(self._index[start : start + BATCH]), self._preprocessing)


def data_for(model: Artifact, folder: Path | None) -> Plugin:
    """The data section for a model: `folder` read with the model's own preprocessing, or what its manifest names.

    Raises `UserError` when there is neither.
    """
    if folder is not None:
        p = preprocessing_of(model)
        options = {"path": str(folder.resolve()), "size": p.size, "color": p.color, "mean": p.mean, "std": p.std}
        return Plugin.model_validate({"name": "imagefolder", **options})
    if model.manifest.data is None:
        raise UserError(
            f"{model.path} names no data set, and real images are needed.",
            "give --data FOLDER with class folders under train/ and test/",
        )
    return model.manifest.data


def open_data(data: Plugin) -> Source:
    return open_source({"name": data.name, **data.options})


def training_batches(model: Artifact, source: Source, images: int, seed: int, say: Say) -> Batches:
    """At most `images` training images, drawn by `seed`; test images where there are no others, which is told."""
    try:
        split = source.split("train")
    except UserError as fault:
        say(f"{fault.message} Calibration uses images that the model is also judged on.")
        split = source.split("test")
    return _drawn(split, images, seed, preprocessing_of(model))


def test_samples(model: Artifact, source: Source) -> Floats:
    """The images float32 [N, C, H, W] on which an export proves parity; the same ones on every call."""
    return np.concatenate(list(batches_of(model, source, "test", SAMPLES)))


def batches_of(model: Artifact, source: Source, split: str, images: int) -> Batches:
    """At most `images` images of a split, the same ones on every call."""
    return _drawn(source.split(split), images, 0, preprocessing_of(model))


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
    images = next(iter(_drawn(split, 1, 0, preprocessing_of(model))))
    outputs, classes = run_onnx(model.path, images).shape[-1], len(split.classes)
    if outputs != classes:
        raise UserError(
            f"{model.path.name} has {outputs} outputs, but the data has {classes} classes.",
            "name the data it classifies, or say --task verification if its outputs are an embedding",
        )
    return {"task": "classification", "output": "logits", "classes": tuple(split.classes)}


def _drawn(split: Split, images: int, seed: int, preprocessing: Preprocessing) -> Batches:
    order = np.random.default_rng(seed).permutation(len(split))
    return Batches(split, order[:images].astype(np.int64), preprocessing)
