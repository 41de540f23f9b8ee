"""The images that all contenders of a subject train on, decoded beforehand: whose decoder is faster is not asked here.

Real ones where their folder is given, else noise of the same shape, which costs the same and is said in the result.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.training.subjects import Subject
from kd2edge.data import Split, open_source
from kd2edge.errors import UserError

NOISE = {"cifar": 12_800, "faces": 5_120}  # images; of faces every class has one at least
CHUNK = 512


@dataclass(frozen=True)
class Material:
    """Paths of uint8 [N, H, W, C] and int64 [N], and what they are, in words."""

    images: Path
    labels: Path
    count: int
    classes: int
    about: str


def prepare(subject: Subject, given: Path | None, folder: Path) -> Material:
    """Write a subject's images into a folder, unless they are there."""
    name = f"{subject.kind}-{'noise' if given is None else 'real'}"
    images, labels = folder / f"{name}-images.npy", folder / f"{name}-labels.npy"
    folder.mkdir(parents=True, exist_ok=True)
    if not labels.exists():
        _noise(subject, images, labels) if given is None else _real(subject.kind, given, images, labels)
    known = np.load(labels)
    if len(known) < subject.train().batch:
        raise UserError(f"{len(known)} images do not make a batch of {subject.train().batch}.")
    count, classes = len(known), subject.classes if given is None else int(known.max()) + 1
    what = "images of noise" if given is None else "real images"
    return Material(images, labels, count, classes, f"{count:,} {what} of {classes:,} classes, decoded beforehand")


def _noise(subject: Subject, images: Path, labels: Path) -> None:
    random, count = np.random.default_rng(0), NOISE[subject.kind]
    np.save(images, random.integers(0, 256, (count, *subject.size, 3), np.uint8))
    classes = np.concatenate([np.arange(subject.classes), random.integers(0, subject.classes, count)])[:count]
    np.save(labels, random.permutation(classes).astype(np.int64))


def _real(kind: str, given: Path, images: Path, labels: Path) -> None:
    section: dict[str, dict[str, Any]] = {
        "cifar": {"name": "cifar10", "path": str(given)},
        "faces": {"name": "faces", "train": str(given)},
    }
    split: Split = open_source(section[kind]).split("train")
    shape = split.read(np.arange(1)).shape[1:]
    written = np.lib.format.open_memmap(images, "w+", np.uint8, (len(split), *shape))
    for start in range(0, len(split), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(split)))
        written[index] = split.read(index)
    written.flush()
    np.save(labels, split.labels)
