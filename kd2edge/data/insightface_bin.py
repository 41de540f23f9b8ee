"""Verification pairs as insightface packs them: one `.bin`, a pickle of encoded images two by two, and who is whom.

The format is that of its `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`; it is read without unpickling (see `_unpickle`).
Who is who beyond the listed pairs is not in the file: without a list of names the pairs alone are judged.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from kd2edge.data import Images, Ints, PairList, Preprocessing, Source
from kd2edge.data._aligned import Aligned, decoded, preprocessing
from kd2edge.data._subgroups import numbered, read_subgroups
from kd2edge.data._unpickle import unpickle
from kd2edge.data._unpickle_names import Array
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Images 2 i and 2 i + 1, encoded or RGB uint8 [H, W, 3], are pair i; `same` bool [P] says which are genuine."""

    images: list[bytes | Images]
    same: Bools


class Faces(Aligned):
    """The distinct images of a list of pairs, and the list as `protocol`.

    Where nobody is named, `classes` is empty, and each image has a label of its own.
    """

    protocol: PairList


class InsightfaceBin(Source):
    """The split "test" only: a list of pairs is for judging."""

    personal = True

    class Config(PluginConfig):
        """`path` is the `.bin`, `names` a text file with one line an image, in its order: `Person/file`.

        `subgroups` is a CSV with a line of column names and then one line a pair. `folds`, `mode` and `flip` are
        how the pairs are judged (see `PairList`). `size` is the side of the aligned images; `mean` and `std` are in
        units of pixel / 255.
        """

        path: Path
        names: Path | None = None
        subgroups: Path | None = None
        folds: int = Field(default=10, ge=2)
        mode: Literal["exact", "insightface"] = "exact"
        flip: bool = False
        size: int = Field(default=112, ge=1)
        mean: float = 0.5
        std: float = Field(default=0.5, gt=0)

    def __init__(self, config: Config) -> None:
        if not config.path.is_file():
            raise UserError(f"There is no file {config.path}.", "set data.path to a .bin of insightface's form")
        self.config = config

    def preprocessing(self) -> Preprocessing:
        return preprocessing((self.config.size, self.config.size), self.config.mean, self.config.std)

    def split(self, name: str) -> Faces:
        """Each image once, labelled by person. Raises `UserError` where `names` contradict the pairs.

        Without `names` images are told apart by their bytes, and nobody is known: that two images are listed as no
        pair does not say that they show two people.
        """
        if name != "test":
            raise UserError(f"A list of pairs has no split {name!r}.", "splits: test")
        config = self.config
        pairs = read_pairs(config.path)
        names = _names(config.names, len(pairs.images)) if config.names else None
        first, place = _distinct(names or _contents(pairs), pairs)
        people = [names[i].rpartition("/")[0] if names else str(i) for i in first]
        classes, labels = numbered(people)
        columns, values = read_subgroups(config.subgroups, len(pairs.same)) if config.subgroups else ({}, {})
        split = Faces(
            lambda i: _pixels(pairs, first[i], (config.size, config.size), config.path),
            labels,
            classes if names else [],
            (config.size, config.size),
            _mark(config.path, names or []),
        )
        listed = place.reshape(-1, 2), pairs.same
        split.protocol = PairList(*listed, config.folds, config.flip, config.mode, columns, values)
        if config.names:
            _agree(split, config.names)
        return split


def read_pairs(path: Path) -> Pairs:
    """The pairs of a `.bin`, nothing decoded. Raises `UserError` for a file that holds anything else, or is damaged."""
    tree = unpickle(path)
    if not isinstance(tree, tuple | list) or len(tree) != 2 or not isinstance(tree[0], list):
        raise _no_pairs(path, "it is no pair of a list of images and a list of bools")
    copies: dict[int, bytes] = {}  # of one array that is named many times: a small file must not fill the memory
    images = [_image(item, number, path, copies) for number, item in enumerate(tree[0], 1)]
    same = _bools(tree[1], path)
    if len(images) != 2 * len(same) or not len(same):
        raise _no_pairs(path, f"it has {len(images):,} images for {len(same):,} pairs")
    return Pairs(images, same)


def _image(item: Any, number: int, path: Path, copies: dict[int, bytes]) -> bytes | Images:
    if isinstance(item, Array) and isinstance(item.value, np.ndarray) and item.value.dtype == np.uint8:
        if item.value.ndim == 1:
            return copies.setdefault(id(item), copies.get(id(item)) or item.value.tobytes())
        if item.value.ndim == 3:
            return item.value
    if not isinstance(item, bytes):
        raise _no_pairs(path, f"its image {number:,} is neither bytes nor a uint8 array")
    return item


def _bools(listed: Any, path: Path) -> Bools:
    values = listed.value.tolist() if isinstance(listed, Array) and isinstance(listed.value, np.ndarray) else listed
    if not isinstance(values, list | tuple):
        raise _no_pairs(path, "its second part is no list of bools")
    wrong = [i for i, value in enumerate(values) if not isinstance(value, int) or value not in (0, 1)]
    if wrong:
        raise _no_pairs(path, f"its pair {wrong[0] + 1:,} is marked neither true nor false")
    return np.array(values, np.bool_)


def _no_pairs(path: Path, why: str) -> UserError:
    return UserError(f"{path} holds no verification pairs: {why}.", "take the file anew")


def _names(path: Path, images: int) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The names {path} cannot be read: {error}.") from None
    if len(names) != images:
        raise UserError(f"{path} has {len(names):,} names for {images:,} images.", "one line an image, in their order")
    bare = [number for number, name in enumerate(names, 1) if not name.rpartition("/")[0]]
    if bare:
        raise UserError(f"Line {bare[0]:,} of {path} names no person.", "each line is Person/file")
    return names


def _contents(pairs: Pairs) -> list[str]:
    """The sha256 of each image as it is stored, which names it where nothing else does.

    What a small file names half a million times is hashed once.
    """
    held = {id(image): image for image in pairs.images}
    digests = {key: hashlib.sha256(_raw(image).tobytes()).hexdigest() for key, image in held.items()}
    return [digests[id(image)] for image in pairs.images]


def _distinct(names: list[str], pairs: Pairs) -> tuple[list[int], Ints]:
    """The first entry of each name, and for each entry the position of its name among those."""
    position: dict[str, int] = {}
    first: list[int] = []
    place = np.empty(len(names), np.int64)
    for entry, name in enumerate(names):
        if name not in position:
            position[name] = len(first)
            first.append(entry)
        place[entry] = position[name]
        earlier = first[position[name]]
        one, other = pairs.images[earlier], pairs.images[entry]
        if one is not other and not np.array_equal(_raw(one), _raw(other)):
            raise UserError(
                f"Images {earlier + 1:,} and {entry + 1:,} are both named {name!r}, but differ.",
                "one of the two is damaged, or the names are of another file",
            )
    return first, place


def _raw(image: bytes | Images) -> Images:
    return np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image


def _agree(split: Faces, names: Path) -> None:
    """Raise `UserError` unless every pair is genuine exactly if its two images have one person's name."""
    pairs, same = split.protocol.pairs, split.protocol.same
    said = split.labels[pairs[:, 0]] == split.labels[pairs[:, 1]]
    wrong = np.flatnonzero(said != same)
    if len(wrong):
        kind = "genuine" if same[wrong[0]] else "not genuine"
        raise UserError(
            f"Pair {wrong[0] + 1:,} is marked as {kind}, but by {names} it is the contrary.",
            "the names are of another file, or their order is another",
        )


def _pixels(pairs: Pairs, entry: int, size: tuple[int, int], path: Path) -> Images:
    image = pairs.images[entry]
    what = f"Image {entry + 1:,} of {path}"
    if isinstance(image, bytes):
        return decoded(image, size, what)
    if image.shape != (*size, 3):
        raise UserError(f"{what} is of shape {image.shape}, not {(*size, 3)}.", "set data.size")
    return image


def _mark(path: Path, names: list[str]) -> str:
    return hashlib.sha256(path.read_bytes() + "\n".join(names).encode()).hexdigest()
