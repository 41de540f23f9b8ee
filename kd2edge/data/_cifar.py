"""CIFAR-10 and CIFAR-100 as data sets: the splits of whichever form is found, by a fixed rule."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from kd2edge.data import Images, InMemory, Preprocessing, Source, decoder_name
from kd2edge.data._cifar_forms import SIDE, Columns, Form, Kind, find
from kd2edge.data._holdout import Bools, first_of_each, last_tenth, no_split
from kd2edge.shelves import PluginConfig


class CifarConfig(PluginConfig):
    """`path` is the folder of the files, the one in which an archive was unpacked, or an .npz.

    `holdout` keeps the last tenth of each training class out of "train" as a "val". `train_images` takes the first of
    each class of "train", equally many, together so many, for machines with little time. Neither is drawn by chance.
    """

    path: Path
    holdout: bool = False
    train_images: int | None = Field(default=None, ge=10, multiple_of=10)


class Cifar(Source):
    """RGB images in the files' order; nothing is kept in memory but the split that was asked for."""

    Config = CifarConfig
    kind: ClassVar[Kind]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]

    def __init__(self, config: Any) -> None:
        """Raises `UserError` where no form is there, or a file of it is missing."""
        self.config = config
        self._read = find(self.kind, config.path, self.further_forms())

    def further_forms(self) -> list[Form]:
        """Forms that only this set is found in."""
        return []

    def preprocessing(self) -> Preprocessing:
        size, decoder = (SIDE, SIDE), decoder_name("bilinear")
        return Preprocessing(size=size, channels=3, color="RGB", mean=self.mean, std=self.std, decoder=decoder)

    def split(self, name: str) -> InMemory:
        """Raises `UserError`, naming the file, for one that is damaged, and for more `train_images` than there are."""
        kind, config = self.kind, self.config
        splits = ["train", "val", "test"] if config.holdout else ["train", "test"]
        if name not in splits:
            raise no_split(kind.name, name, splits)
        images, columns = self._read("test" if name == "test" else "train")
        if name != "test" and config.holdout:
            later = last_tenth(columns[kind.finest])
            images, columns = _only(later if name == "val" else ~later, images, columns)
        if name == "train" and config.train_images is not None:
            few = first_of_each(config.train_images, columns[kind.finest], kind.columns[kind.finest])
            images, columns = _only(few, images, columns)
        return self.labelled(images, columns)

    @abstractmethod
    def labelled(self, images: Images, columns: Columns) -> InMemory:
        """These images with one of their columns as labels, and the names of its classes."""


def _only(chosen: Bools, images: Images, columns: Columns) -> tuple[Images, Columns]:
    return images[chosen], {name: column[chosen] for name, column in columns.items()}
