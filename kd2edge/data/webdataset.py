"""WebDataset: tar files ("shards") in which the files of one name are one sample, as 0017.jpg and 0017.cls are.

The convention of github.com/webdataset/webdataset: a sample's key is its path up to the first dot of the file's name,
and its files follow one another. Shards are indexed once and then read at any place; none is streamed or unpacked.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kd2edge.data import Ints, Preprocessing, Source
from kd2edge.data._packed import Packed, Places
from kd2edge.data._photo_set import lines_of
from kd2edge.data._photos import stated
from kd2edge.data._shards import index_shard, shards
from kd2edge.data._tar_index import Index, indexed
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

SPLITS = ("train", "val", "test")
STRANGERS = 1 << 20  # classes that a set may have however few its images are: 75 MB of names


class Webdataset(Source):
    """Splits are those that have shards. Labels are whole numbers from 0, in each sample's `.cls` or `.json`."""

    class Config(PluginConfig):
        """`path` is a folder with the shards of each split in `train`, `val` and `test`. Or those keys say which shards
        are a split's, relative to `path`: "shards/train-{000000..000146}.tar", also with {a,b} and *.

        `label` is "cls", or "json.FIELD". `classes` is how many there are, or a file with a name a line; without it
        there is one more than the largest label of "train". `size`, `resize`, `color`, `mean` and `std` are as those
        of imagefolder.
        """

        path: Path
        train: str | None = None
        val: str | None = None
        test: str | None = None
        label: str = Field(default="cls", pattern=r"^(cls|json\..+)$")
        classes: int | Path | None = None
        size: int | tuple[int, int] = 224
        resize: int | None = Field(default=None, ge=1)
        color: Literal["RGB", "L"] = "RGB"
        mean: tuple[float, ...] | None = None
        std: tuple[float, ...] | None = None

    def __init__(self, config: Config) -> None:
        """Raises `UserError` where there are no shards; none is opened yet."""
        self.config = config
        size = config.size if isinstance(config.size, tuple) else (config.size, config.size)
        self._preprocessing = stated("data webdataset", size, config.color, config.mean, config.std, config.resize)
        self.shards = {name: shards(config.path, name, getattr(config, name)) for name in SPLITS}
        if not any(self.shards.values()):
            raise UserError(
                f"There are no shards in {config.path}.",
                "put *.tar into its folders train, val and test, or set data.train, data.val and data.test to patterns",
            )

    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    def split(self, name: str) -> Packed:
        """The samples in the shards' order. Raises `UserError`, naming shard and sample, for what is damaged or odd."""
        if not self.shards.get(name):
            there = ", ".join(split for split, found in self.shards.items() if found)
            raise UserError(f"There are no shards of a split {name!r} in {self.config.path}.", f"splits: {there}")
        indices, stamps = self._indices(name)
        labels = np.concatenate([index.labels for index in indices])
        if not len(labels):
            raise UserError(f"The shards of the split {name!r} in {self.config.path} hold no samples.")
        which = np.repeat(np.arange(len(indices), dtype=np.int32), [len(index.labels) for index in indices])
        offsets, sizes = (np.concatenate([index[column] for index in indices]) for column in (0, 1))
        places = Places(self.shards[name], which, offsets, sizes, stamps)
        classes = self._classes(name, labels)
        for odd in np.flatnonzero(labels >= len(classes))[:1]:
            raise UserError(
                f"{places.name(odd)} is of class {labels[odd]:,}, and there are {len(classes):,}, counted from 0.",
                "set data.classes",
            )
        return Packed(places, labels, classes, self._preprocessing)

    def _indices(self, name: str) -> tuple[list[Index], list[tuple[int, int]]]:
        label = self.config.label
        found = [indexed(path, label, partial(index_shard, path, label)) for path in self.shards[name]]
        return [index for index, _ in found], [stamp for _, stamp in found]

    def _classes(self, name: str, labels: Ints) -> list[str]:
        said = self.config.classes
        if isinstance(said, Path):
            names = lines_of(self.config.path / said, "data.classes: a name a line")
            if not names or not all(names) or len(set(names)) < len(names):
                raise UserError(f"{self.config.path / said} does not name the classes, each once, a name a line.")
            return names
        if said is None and name != "train" and self.shards["train"]:
            labels = np.concatenate([index.labels for index in self._indices("train")[0]])
        count = said if said is not None else int(labels.max(initial=0)) + 1
        if not 1 <= count <= max(len(labels), STRANGERS):
            raise UserError(f"{count:,} classes are said, of {len(labels):,} images.", "set data.classes")
        return [str(number) for number in range(count)]
