"""Sets of photographs with one official part to train on and one to judge by, which here is "test".

What the field reports on these sets is measured on that second part, whether its authors called it "val" or "test".
A "val" to choose settings by is held out of the training images.
"""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kd2edge.data import Ints, Preprocessing, Source, Split
from kd2edge.data._holdout import last_tenth, no_split
from kd2edge.data._listed import Listed
from kd2edge.data._packed import Packed
from kd2edge.data._photos import PhotoConfig, photo_preprocessing
from kd2edge.errors import UserError

LONGEST = 1 << 28  # bytes of a list of labels


class PhotoSet(Source):
    """Splits "train" and "test"; with `holdout` also "val", which is then no part of "train"."""

    Config = PhotoConfig
    title: ClassVar[str]

    def __init__(self, config: Any) -> None:
        """Raises `UserError` where there is no such folder."""
        if not config.path.is_dir():
            raise UserError(f"There is no folder {config.path}.", f"set data.path to the folder of {self.title}")
        self.config = config
        self._preprocessing = photo_preprocessing(config, f"data of {self.title}")

    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    def split(self, name: str) -> Split:
        """Raises `UserError` for another split, and, naming the file, for what is missing, damaged or contradictory."""
        holdout = self.config.holdout
        splits = ["train", "val", "test"] if holdout else ["train", "test"]
        if name not in splits:
            raise no_split(self.title, name, splits)
        found = self.official(judge=name == "test")
        if not len(found):
            raise UserError(f"The split {name!r} of {self.title} in {self.config.path} has no images.")
        if found.labels.max() >= len(found.classes):
            where = f"The split {name!r} of {self.title} in {self.config.path}"
            raise UserError(f"{where} has labels without a class.", "delete the hidden .index files beside its tars")
        if name == "test" or not holdout:
            return found
        later = last_tenth(found.labels)
        return found.only(np.flatnonzero(later if name == "val" else ~later))

    @abstractmethod
    def official(self, judge: bool) -> Listed | Packed:
        """The whole official part to train on, or the one to judge by."""


def lines_of(path: Path, hint: str) -> list[str]:
    """The lines of a text file, without what surrounds them; empty ones at its end are none."""
    try:
        if path.stat().st_size > LONGEST or not path.is_file():  # a device may go on for ever
            raise UserError(f"{path} is no list, or larger than any such list.", hint)
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", hint) from None
    while lines and not lines[-1]:
        lines.pop()
    return lines


def numbered_by(names: Iterable[str], classes: list[str], what: Path) -> Ints:
    """int64 [N]: the place of each name among the classes. Raises `UserError` for one that is none of them."""
    number = {one: label for label, one in enumerate(classes)}
    listed = list(names)
    for place, name in enumerate(listed, 1):
        if name not in number:
            raise UserError(f"{what} says that its image {place:,} is of {name[:80]!r}, which is no class of the set.")
    return np.array([number[name] for name in listed], np.int64)


def refuse_twice(names: Iterable[str], what: Path) -> None:
    """Raise `UserError` for an image that a list names twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{what} names {name[:80]!r} twice.", "take the file anew")
        seen.add(name)


def refuse_paths(names: Iterable[str], what: Path) -> None:
    """Raise `UserError` for a name in a list that is no plain file name: it would lead out of the set's folder."""
    for name in names:
        if not name or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
            raise UserError(f"{what} names {name[:80]!r}, which is no file of the set.", "take the file anew")
