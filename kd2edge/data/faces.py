"""Faces for training and for judging, from insightface's files: a `train.rec`, and pairs of other people in a `.bin`.

The two are separate data sets with one preprocessing (`insightface_rec`, `insightface_bin`); here they are one.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from kd2edge.data import Images, Ints, Preprocessing, Source, Split
from kd2edge.data._aligned import Aligned
from kd2edge.data.insightface_bin import InsightfaceBin
from kd2edge.data.insightface_rec import InsightfaceRec
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

EVERY = 8  # of the people with two images or more, held out


class Faces(Source):
    """Splits: train of the `.rec`, test of the `.bin`, and with `holdout` every eighth person seen twice as val."""

    personal = True

    class Config(PluginConfig):
        """`train` is the folder of the three files, `test` the `.bin` and `names` its list, `Person/file` a line.

        `holdout` keeps every eighth person of two images or more out of "train" as a "val", to choose between settings
        by. `mean` and `std` are in units of pixel / 255.
        """

        train: Path
        test: Path | None = None
        names: Path | None = None
        holdout: bool = False
        mean: float = 0.5
        std: float = Field(default=0.5, gt=0)

    def __init__(self, config: Config) -> None:
        self.config = config
        constants = {"mean": config.mean, "std": config.std}
        self.rec = InsightfaceRec(InsightfaceRec.Config(path=config.train, **constants))
        self.bin: InsightfaceBin | None = None
        if config.test is not None:
            side = self.rec.size[0]
            judged = InsightfaceBin.Config(path=config.test, names=config.names, size=side, **constants)
            self.bin = InsightfaceBin(judged)

    def preprocessing(self) -> Preprocessing:
        return self.rec.preprocessing()

    def split(self, name: str) -> Split:
        """Raises `UserError` as its two readers do, and for a split that was not asked for."""
        if name == "test" and self.bin is not None:
            return self.bin.split("test")
        if name == "train" or (name == "val" and self.config.holdout):
            everyone = self.rec.split("train")
            return _part(everyone, name == "val") if self.config.holdout else everyone
        cures = {"test": "set data.test to a .bin of insightface's form", "val": "set data.holdout=true"}
        raise UserError(f"There is no split {name!r} here.", cures.get(name, "splits: train, val, test"))


def _part(everyone: Aligned, held_out: bool) -> Aligned:
    """The people held out, or the others, numbered anew in their order."""
    counts = np.bincount(everyone.labels, minlength=len(everyone.classes))
    chosen = np.zeros(len(counts), np.bool_)
    chosen[np.flatnonzero(counts >= 2)[::EVERY]] = True
    people = np.flatnonzero(chosen == held_out)
    index = np.flatnonzero(chosen[everyone.labels] == held_out)
    mark = hashlib.sha256(f"{everyone.mark} {EVERY} {held_out}".encode()).hexdigest()
    labels = np.searchsorted(people, everyone.labels[index])
    classes = [everyone.classes[person] for person in people]
    return Aligned(partial(_at, everyone.pixels, index), labels, classes, everyone.size, mark)


def _at(pixels: Callable[[int], Images], index: Ints, position: int) -> Images:
    return pixels(int(index[position]))
