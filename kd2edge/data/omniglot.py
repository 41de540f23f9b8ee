"""Omniglot, embedded: 32,460 drawings of 1,623 characters of 50 alphabets, each character once by each of 20 writers.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 350
(2015). Small, free (MIT) and open-set like faces: the test alphabets share no character with the training ones.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator

from kd2edge.data import Images, InMemory, Ints, Preprocessing, Source, decoder_name
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

FILE = Path(__file__).parent / "_omniglot" / "omniglot.npz"
SIDE = 105  # pixels of a drawing as published
WRITERS = 20
BACKGROUND = 964  # the first characters of the file are Lake et al.'s background set, the others the evaluation set

# Every sixth of the 30 background alphabets in order of name, so that the choice owes nothing to any result:
# 16 to 55 characters each, 158 together.
HELD_OUT = frozenset(
    ["Balinese", "Early_Aramaic", "Inuktitut_(Canadian_Aboriginal_Syllabics)", "Mkhedruli_(Georgian)", "Tifinagh"]
)
SPLIT_BY_WRITER = {"train": range(1, 15), "val": range(15, 17), "test": range(17, 21)}

# Of the 19,280 background drawings at 32 x 32, in units of pixel / 255.
MEAN, STD = 0.07806, 0.23824


class Omniglot(Source):
    """White ink (255) on black, shrunk from 105 x 105 by a box filter in integer arithmetic."""

    class Config(PluginConfig):
        """`size` is the side of the images. `holdout` keeps five background alphabets out of "train" as a "val".

        `protocol` "alphabets" is open-set: other alphabets at test. "writers" classifies the 964 background
        characters, with other writers at test.
        """

        size: int = Field(default=32, multiple_of=16, ge=16, le=SIDE)
        protocol: Literal["alphabets", "writers"] = "alphabets"
        holdout: bool = False

        @field_validator("holdout")
        @classmethod
        def _holds_out_alphabets_only(cls, holdout: bool, others: ValidationInfo) -> bool:
            if holdout and others.data.get("protocol") == "writers":
                raise ValueError("keeps alphabets out, and goes with protocol: alphabets only")
            return holdout

    def __init__(self, config: Config) -> None:
        self.config = config

    def preprocessing(self) -> Preprocessing:
        size = (self.config.size, self.config.size)
        return Preprocessing(size=size, channels=1, color="L", mean=(MEAN,), std=(STD,), decoder=decoder_name("box"))

    def split(self, name: str) -> InMemory:
        """Characters in the file's order, each with its writers in ascending order.

        `groups`: "alphabet" 0..49 (0..29 background, 30..49 evaluation) and "writer" 1..20.
        """
        splits = _by_writer() if self.config.protocol == "writers" else _by_alphabet(self.config.holdout)
        if name not in splits:
            raise _no_split(name, list(splits))
        characters, writers = splits[name]
        names, alphabets = _characters()
        return InMemory(
            images=_draw(characters, writers, self.config.size),
            labels=np.repeat(np.arange(len(characters)), len(writers)),
            groups={
                "alphabet": np.repeat(alphabets[characters], len(writers)),
                "writer": np.tile(writers, len(characters)),
            },
            classes=[names[i] for i in characters],
        )


def _by_alphabet(holdout: bool) -> dict[str, tuple[Ints, Ints]]:
    """The characters (rows of the file) and the writers of each split."""
    everyone, names = np.arange(1, WRITERS + 1), _characters()[0]
    background, evaluation = np.split(np.arange(len(names)), [BACKGROUND])
    if not holdout:
        return {"train": (background, everyone), "test": (evaluation, everyone)}
    held_out = np.array([names[i].split("/")[0] in HELD_OUT for i in background])
    return {
        "train": (background[~held_out], everyone),
        "val": (background[held_out], everyone),
        "test": (evaluation, everyone),
    }


def _by_writer() -> dict[str, tuple[Ints, Ints]]:
    return {name: (np.arange(BACKGROUND), np.array(writers)) for name, writers in SPLIT_BY_WRITER.items()}


def _no_split(name: str, splits: list[str]) -> UserError:
    if name == "val":
        return UserError(
            "Omniglot has no 'val' split unless five training alphabets are held out for it.",
            "set data.holdout: true, or judge on 'train' and 'test' only",
        )
    return UserError(f"Omniglot has no split {name!r}.", f"splits: {', '.join(splits)}")


@cache
def _characters() -> tuple[list[str], Ints]:
    """The 1,623 names "Alphabet/characterNN", and the alphabet of each as int64 0..49 in order of appearance."""
    with np.load(FILE, allow_pickle=False) as file:
        names = [name.decode("ascii") for name in file["characters"].tolist()]
    alphabets: dict[str, int] = {}
    return names, np.array([alphabets.setdefault(name.split("/")[0], len(alphabets)) for name in names])


def _draw(characters: Ints, writers: Ints, size: int) -> Images:
    """The drawings of some characters by some writers: uint8 [characters x writers, size, size, 1]."""
    evaluation = int(characters[0]) >= BACKGROUND
    with np.load(FILE, allow_pickle=False) as file:
        strokes = file["evaluation" if evaluation else "background"]  # uint8 [characters, 20, 105, 14]: a bit a pixel
    chosen = strokes[characters - BACKGROUND * evaluation][:, writers - 1].reshape(-1, strokes[0, 0].size)
    images = np.empty((len(chosen), size, size, 1), np.uint8)
    for image, bits in zip(images, chosen, strict=True):
        drawing = Image.frombytes("1", (SIDE, SIDE), bits.tobytes()).convert("L")
        image[..., 0] = np.asarray(drawing.resize((size, size), Image.Resampling.BOX))
    return images
