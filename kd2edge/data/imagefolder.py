"""A folder of images, one sub-folder per class: `path/train/cat/1.jpg`, `path/val/...`, `path/test/...`.

Images are decoded when read. Without `val`, a tenth of `train` is set aside by a hash of each file's path, so that
adding or removing images moves no other from one side to the other.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kd2edge.data import Images, Ints, Preprocessing, Source, Split, decode, decoder_name
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig, configure

SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
SPLITS = ("train", "val", "test")
THREADS = 4  # Pillow decodes outside the interpreter's lock

# ImageNet's constants, and for grey images their averages.
MEAN = {"RGB": (0.485, 0.456, 0.406), "L": (0.449,)}
STD = {"RGB": (0.229, 0.224, 0.225), "L": (0.226,)}


class Folder(Split):
    """Files and their labels; nothing is decoded before `read`, which takes the same time and memory at any N."""

    def __init__(self, files: list[Path], labels: Ints, classes: list[str], preprocessing: Preprocessing) -> None:
        self.files, self.labels, self.classes, self.groups = files, labels, classes, {}
        self._preprocessing = preprocessing

    def read(self, index: Ints) -> Images:
        """As `Split.read`; raises `UserError`, naming the file, for one that cannot be decoded."""
        p = self._preprocessing
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(lambda i: decode(self.files[i], p), index))
        return np.stack(images) if images else np.empty((0, *p.size, p.channels), np.uint8)

    def fingerprint(self) -> str:
        """Class, name, size and time of change of every file, and how they are read; no file is opened."""
        stats = [(file.parent.name, file.name, file.stat()) for file in self.files]
        seen = [[folder, name, stat.st_size, stat.st_mtime_ns] for folder, name, stat in stats]
        return hashlib.sha256(json.dumps([seen, self._preprocessing.model_dump()]).encode()).hexdigest()


class ImageFolder(Source):
    """Class folders under `train`, `val` and `test`; or directly under `path`, which is then "test" and "all" only."""

    class Config(PluginConfig):
        """`size` is the side, or [H, W]: images are scaled to cover it and cut about their centre.

        `mean` and `std` are in units of pixel / 255 and default to ImageNet's. `val_fraction` of "train" becomes "val"
        where there is no `val` folder; 0 sets nothing aside.
        """

        path: Path
        size: int | tuple[int, int] = 224
        color: Literal["RGB", "L"] = "RGB"
        mean: tuple[float, ...] | None = None
        std: tuple[float, ...] | None = None
        val_fraction: float = Field(default=0.1, ge=0, lt=1)

    def __init__(self, config: Config) -> None:
        if not config.path.is_dir():
            raise UserError(f"There is no image folder {config.path}.", "set data.path to a folder of class folders")
        self.config = config
        self._preprocessing = _preprocessing(config)

    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    def split(self, name: str) -> Folder:
        """Classes sorted by name, the same list for every split; files sorted by name within their class.

        Raises `UserError` if the split has no folder or no images, or if its classes differ from another split's.
        """
        root, fraction = self.config.path, self.config.val_fraction
        found = [split for split in SPLITS if (root / split).is_dir()]
        divided = fraction > 0 and "train" in found and "val" not in found and name in ("train", "val")
        files, classes = _files(root, "train" if divided else name, found)
        if divided:
            files = [file for file in files if _set_aside(file, fraction) == (name == "val")]
        if not files:
            raise UserError(f"The split {name!r} of {root} has no images.", f"suffixes: {', '.join(sorted(SUFFIXES))}")
        number = {one: label for label, one in enumerate(classes)}
        labels = np.array([number[file.parent.name] for file in files], np.int64)
        return Folder(files, labels, classes, self._preprocessing)


def _preprocessing(config: ImageFolder.Config) -> Preprocessing:
    size = config.size if isinstance(config.size, tuple) else (config.size, config.size)
    options = {
        "size": size,
        "channels": len(config.color),
        "color": config.color,
        "mean": config.mean or MEAN[config.color],
        "std": config.std or STD[config.color],
        "decoder": decoder_name("bilinear"),
    }
    return configure(Preprocessing, options, "data imagefolder")


def _files(root: Path, name: str, found: list[str]) -> tuple[list[Path], list[str]]:
    """The image files of a split that has a folder, class by class, and the names of the classes."""
    if not found and name in ("test", "all"):
        folder = root
    elif name in found:
        folder = root / name
    else:
        raise UserError(f"{root} has no split {name!r}.", _what_there_is(root, found))
    classes = _folders(folder)
    for other in found:
        _same_classes(folder, classes, root / other)
    files = [file for one in classes for file in sorted((folder / one).iterdir(), key=lambda file: file.name)]
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")], classes


def _folders(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def _same_classes(folder: Path, classes: list[str], other: Path) -> None:
    differing = sorted(set(classes).symmetric_difference(_folders(other)))
    if differing:
        some = ", ".join(differing[:5]) + ", ..." * (len(differing) > 5)
        raise UserError(
            f"{folder} and {other} differ in {len(differing)} of their class folders: {some}.",
            "every split needs the same class folders; one may be empty",
        )


def _what_there_is(root: Path, found: list[str]) -> str:
    if found:
        return f"split folders there: {', '.join(found)}"
    return f"it has none of the folders {', '.join(SPLITS)}, so that its class folders are the split 'test' only"


def _set_aside(file: Path, fraction: float) -> bool:
    """Whether a file of `train` belongs to "val": by its class and name alone, on any machine and in any company."""
    digest = hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
