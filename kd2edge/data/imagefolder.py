"""A folder of images, one sub-folder per class: `path/train/cat/1.jpg`, `path/val/...`, `path/test/...`.

Images are decoded when read. Without `val`, a tenth of `train` is set aside by a hash of each file's path, so that
adding or removing images moves no other from one side to the other. Of an open set, a tenth of the classes is.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kd2edge.data import Images, Ints, Preprocessing, Source, Split, decode
from kd2edge.data._aligned import read_all
from kd2edge.data._photos import MEAN, STD, stated
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

__all__ = ["MEAN", "STD", "Folder", "ImageFolder"]

SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
SPLITS = ("train", "val", "test")


class Folder(Split):
    """Files and their labels; nothing is decoded before `read`, which takes the same time and memory at any N."""

    def __init__(self, files: list[Path], labels: Ints, classes: list[str], preprocessing: Preprocessing) -> None:
        self.files, self.labels, self.classes, self.groups = files, labels, classes, {}
        self._preprocessing = preprocessing

    def read(self, index: Ints) -> Images:
        """As `Split.read`; raises `UserError`, naming the file, for one that cannot be decoded."""
        p = self._preprocessing
        return read_all(lambda i: decode(self.files[i], p), index, (*p.size, p.channels))

    def fingerprint(self) -> str:
        """Class, name, size and time of change of every file, and how they are read; no file is opened."""
        stats = [(file.parent.name, file.name, file.stat()) for file in self.files]
        seen = [[folder, name, stat.st_size, stat.st_mtime_ns] for folder, name, stat in stats]
        return hashlib.sha256(json.dumps([seen, self._preprocessing.model_dump()]).encode()).hexdigest()


class ImageFolder(Source):
    """Class folders under `train`, `val` and `test`; or directly under `path`, which is then "test" and "all" only."""

    class Config(PluginConfig):
        """`size` is the side, or [H, W]: images are scaled to cover it and cut about their centre. With `resize` their
        shorter side is scaled to so many pixels first, as ImageNet is judged: 256, then 224.

        `mean` and `std` are in units of pixel / 255 and default to ImageNet's. `val_fraction` of "train" becomes "val"
        where there is no `val` folder; 0 sets nothing aside.

        With `open_set` each split has classes of its own, as verification wants, which is judged on people that were
        not trained on: `val_fraction` of the classes becomes "val", and as many become "test" where there is no `test`
        folder. Class folders directly under `path` are then divided so too.
        """

        path: Path
        size: int | tuple[int, int] = 224
        resize: int | None = Field(default=None, ge=1)
        color: Literal["RGB", "L"] = "RGB"
        mean: tuple[float, ...] | None = None
        std: tuple[float, ...] | None = None
        val_fraction: float = Field(default=0.1, ge=0, lt=1)
        open_set: bool = False

    def __init__(self, config: Config) -> None:
        if not config.path.is_dir():
            raise UserError(f"There is no image folder {config.path}.", "set data.path to a folder of class folders")
        self.config = config
        self._preprocessing = _preprocessing(config)

    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    def split(self, name: str) -> Folder:
        """Classes sorted by name, the same list for every split unless the set is open; files sorted by name within.

        Raises `UserError` if the split has no folder or no images, or if its classes differ from another split's (of
        an open set: if one is another split's too).
        """
        root, fraction = self.config.path, self.config.val_fraction
        if self.config.open_set:
            files, classes = _open_set(root, name, fraction)
        else:
            files, classes = _closed_set(root, name, fraction)
        if not files:
            raise UserError(f"The split {name!r} of {root} has no images.", f"suffixes: {', '.join(sorted(SUFFIXES))}")
        number = {one: label for label, one in enumerate(classes)}
        labels = np.array([number[file.parent.name] for file in files], np.int64)
        return Folder(files, labels, classes, self._preprocessing)


def _preprocessing(config: ImageFolder.Config) -> Preprocessing:
    size = config.size if isinstance(config.size, tuple) else (config.size, config.size)
    return stated("data imagefolder", size, config.color, config.mean, config.std, config.resize)


def _closed_set(root: Path, name: str, fraction: float) -> tuple[list[Path], list[str]]:
    """The image files of a split, class by class, and the names of the classes."""
    found = _splits(root)
    divided = fraction > 0 and "train" in found and "val" not in found and name in ("train", "val")
    folder = _folder(root, "train" if divided else name, found)
    classes = _folders(folder)
    for other in found:
        _same_classes(folder, classes, root / other)
    files = _files(folder, classes)
    if divided:
        files = [file for file in files if (_share(f"{file.parent.name}/{file.name}") < fraction) == (name == "val")]
    return files, classes


def _open_set(root: Path, name: str, fraction: float) -> tuple[list[Path], list[str]]:
    """As `_closed_set`. The classes of a split that has no folder are those of "train", or of all, with a low hash."""
    found = _splits(root)
    absent = [split for split in ("val", "test") if split not in found and fraction > 0]
    if name != "train" and name not in absent:
        if not found and name != "all":
            raise UserError(
                f"{root} has no split {name!r}.", "train has it all: set data.val_fraction, or make folders"
            )
        folder = _folder(root, name, found)
        classes = _folders(folder)
    else:
        folder = _folder(root, "train", found) if found else root
        there = _folders(folder)
        classes = [one for one in there if _falls_to(one, absent, fraction) == name]
        if not classes:
            raise UserError(
                f"None of the {len(there)} class folders of {folder} falls to {name!r} by val_fraction = {fraction:g}.",
                f"choose another fraction, or put some class folders under {root / name}",
            )
    for other in found:
        shared = [] if root / other == folder else sorted(set(classes) & set(_folders(root / other)))
        if shared:
            raise UserError(
                f"{folder} and {root / other} have {len(shared)} class folders in common: {_some(shared)}.",
                "of an open set no class may be in two splits",
            )
    return _files(folder, classes), classes


def _falls_to(one: str, absent: list[str], fraction: float) -> str:
    place = int(_share(one) // fraction) if absent else 0
    return absent[place] if place < len(absent) else "train"


def _splits(root: Path) -> list[str]:
    return [split for split in SPLITS if (root / split).is_dir()]


def _folder(root: Path, name: str, found: list[str]) -> Path:
    if not found and name in ("test", "all"):
        return root
    if name not in found:
        raise UserError(f"{root} has no split {name!r}.", _what_there_is(root, found))
    return root / name


def _files(folder: Path, classes: list[str]) -> list[Path]:
    files = [file for one in classes for file in sorted((folder / one).iterdir(), key=lambda file: file.name)]
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]


def _folders(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def _same_classes(folder: Path, classes: list[str], other: Path) -> None:
    differing = sorted(set(classes).symmetric_difference(_folders(other)))
    if differing:
        raise UserError(
            f"{folder} and {other} differ in {len(differing)} of their class folders: {_some(differing)}.",
            "every split needs the same class folders; one may be empty; for people to verify, set data.open_set=true",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _what_there_is(root: Path, found: list[str]) -> str:
    if found:
        return f"split folders there: {', '.join(found)}"
    return f"it has none of the folders {', '.join(SPLITS)}, so that its class folders are the split 'test' only"


def _share(name: str) -> float:
    """Where in [0, 1) a name lies: the same on any machine and in any company."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
