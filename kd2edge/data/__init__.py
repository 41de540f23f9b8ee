"""Data sets, decoded and aligned to uint8 once, in numpy, for training, calibration, bench and gate alike.

An accuracy drop must measure the model, never two implementations of decoding: nothing downstream decodes again.
Every other file of this folder is one data set: a subclass of `Source`, named by its file. Augmentation is not here.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kd2edge import shelves
from kd2edge.data._corruptions import corrupt
from kd2edge.data._images import Images, decode, decoder_name, normalize, shorter_side
from kd2edge.data._protocols import PairList, Protocol, Templates
from kd2edge.errors import UserError
from kd2edge.schema import Preprocessing
from kd2edge.shelves import PluginConfig, configure

CHUNK = 512  # images
Ints = npt.NDArray[np.int64]

__all__ = [
    "Images",
    "InMemory",
    "Ints",
    "PairList",
    "Preprocessing",
    "Protocol",
    "Source",
    "Split",
    "Templates",
    "corrupt",
    "decode",
    "decoder_name",
    "normalize",
    "open_source",
    "shorter_side",
]


class Split(ABC):
    """One split of a data set: its order never changes, and its images are decoded and aligned uint8.

    `labels` is int64 [N], 0..len(classes)-1. `groups` holds further int64 [N] columns by name (Omniglot: "alphabet"
    and "writer") and may be empty. `classes` names the labels; it is empty where nobody is known, and labels then only
    tell images apart. `protocol` is how a face test set wants to be judged, if not by its labels alone.
    """

    labels: Ints
    groups: dict[str, Ints]
    classes: list[str]
    protocol: Protocol | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: Ints) -> Images:
        """The images at int64 [B] positions, in any order, with repetitions if asked: uint8 [B, H, W, C]."""

    def fingerprint(self) -> str:
        """What tells this split from any other: sha256 of labels and pixels, unless a data set knows a quicker way."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for start in range(0, len(self), CHUNK):
            digest.update(self.read(np.arange(start, min(start + CHUNK, len(self)))).tobytes())
        return digest.hexdigest()


class InMemory(Split):
    """A split small enough to be held decoded: `images` is uint8 [N, H, W, C]."""

    def __init__(self, images: Images, labels: Ints, groups: dict[str, Ints], classes: list[str]) -> None:
        self.images, self.labels, self.groups, self.classes = images, labels, groups, classes

    def read(self, index: Ints) -> Images:
        return self.images[index]


class Source(ABC):
    """A data set. `Config` is its section of a recipe, without the `name`.

    Images of a `personal` one show people's faces: no report carries any, whatever its suite says.
    """

    Config: ClassVar[type[PluginConfig]]
    personal: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Check that the data set is there; read as little of it as possible."""

    @abstractmethod
    def split(self, name: str) -> Split:
        """The split "train", "val" or "test". Raises `UserError`, naming those that exist, for any other."""

    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """How its images become a network's input; the same for every split."""


def open_source(options: dict[str, Any]) -> Source:
    """The data set that a recipe's `data` section describes: its `name` (see `shelves.load`) and its `Config`'s keys.

    Raises `UserError` for an unknown name and, all at once, for every faulty key.
    """
    if "name" not in options:
        raise UserError("The data section names no data set.", f"name: one of {', '.join(shelves.names(shelves.DATA))}")
    name = str(options["name"])
    source: type[Source] = shelves.load(shelves.DATA, name, Source)  # type: ignore[type-abstract]
    rest = {key: value for key, value in options.items() if key != "name"}
    return source(configure(source.Config, rest, f"data {name}"))
