"""Image files by their names under a folder, as most sets of photographs are kept: nothing is decoded before `read`."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from kd2edge.data import Images, Ints, Preprocessing, Split, decode
from kd2edge.data._aligned import read_all
from kd2edge.data._strings import Strings
from kd2edge.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Listed(Split):
    """`names` are relative to `root`; the index of a million files takes some eighty megabytes, whatever is read."""

    def __init__(
        self, root: Path, names: Strings, labels: Ints, classes: list[str], preprocessing: Preprocessing
    ) -> None:
        self.root, self.names, self.labels, self.classes, self.groups = root, names, labels, classes, {}
        self._preprocessing = preprocessing
        self._mark = ""

    def read(self, index: Ints) -> Images:
        """As `Split.read`; raises `UserError`, naming the file, for one that cannot be decoded."""
        p, root = self._preprocessing, self.root
        return read_all(lambda i: decode(root / self.names[i], p), index, (*p.size, p.channels))

    def only(self, chosen: Ints) -> "Listed":
        """The same classes, and the images at int64 [M] places."""
        return Listed(self.root, self.names.take(chosen), self.labels[chosen], self.classes, self._preprocessing)

    def fingerprint(self) -> str:
        """Name, label, size and time of change of every file, and how they are read; no file is opened.

        Raises `UserError` for a file that is gone.
        """
        if not self._mark:
            stats = np.empty((len(self), 2), np.int64)
            for place, name in enumerate(self.names):
                stats[place] = _stat(self.root / name)
            digest = hashlib.sha256(json.dumps([self.classes, self._preprocessing.model_dump()]).encode())
            for name in self.names:
                digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(self.labels.tobytes() + stats.tobytes())
            self._mark = digest.hexdigest()
        return self._mark


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    return found.st_size, found.st_mtime_ns


def in_folders(root: Path, listed: list[str], classes: list[str], how: Preprocessing, within: str = "") -> Listed:
    """The images of a folder for each class, by name; `within` is a folder of each that holds them."""
    found = [images(root / one / within) for one in listed]
    begins = (f"{one}/{within}/" if within else f"{one}/" for one in listed)
    names = (f"{begin}{name}" for begin, files in zip(begins, found, strict=True) for name in files)
    labels = np.repeat(np.arange(len(listed), dtype=np.int64), [len(files) for files in found])
    return Listed(root, Strings(names), labels, classes, how)


def refuse_other(classes: list[str], others: list[str], what: str, hint: str) -> None:
    """Raise `UserError` where two lists of classes are not of the same."""
    odd = sorted({*classes}.symmetric_difference(others))
    if odd:
        raise UserError(f"{what} differ in {len(odd):,} of their classes: {', '.join(odd[:5])}.", hint)


def folders(root: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones are none. Raises `UserError` if unreadable."""
    return sorted(entry.name for entry in _entries(root) if entry.is_dir() and not entry.name.startswith("."))


def images(root: Path) -> list[str]:
    """The names of the image files in a folder, sorted; hidden ones are none."""
    names = [entry.name for entry in _entries(root) if not entry.name.startswith(".")]
    return sorted(name for name in names if name.lower().endswith(SUFFIXES))


def _entries(root: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(root) as found:
            return list(found)
    except OSError as error:
        raise UserError(f"{root} cannot be read: {error.strerror}.") from None
