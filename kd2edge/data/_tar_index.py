"""Where the images of a tar lie and what they show, found once and kept beside it.

A tar has no index of its own: to find the last of a million images each header is to be read. What was found is kept in
a hidden file next to the tar, if its folder can be written, and holds as long as the tar's size and time of change, its
first and last bytes, and what was asked stay the same. It may have come with the folder: one that leads beyond the tar,
does not sum up or is of another kind is made anew, without a word.
"""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from kd2edge.data import Ints
from kd2edge.errors import UserError
from kd2edge.files import write_atomic

VERSION = 2
BUFFER = 1024  # bytes: a header and what may follow it; the rest of a gigabyte is passed over
ENDS = 4096  # bytes at both ends of a tar that its index is bound to
COLUMNS = ("offsets", "sizes", "labels")
LARGEST = 1 << 28  # bytes of an image file


class Index(NamedTuple):
    """Of each image of a tar, in its order: first byte, number of bytes, label; and what the labels, if any, name."""

    offsets: Ints
    sizes: Ints
    labels: Ints
    names: list[str]


def index_of(entries: Iterable[tuple[int, int, int]], names: list[str]) -> Index:
    """Of each image's (offset, size, label): taken in one by one, for a million tuples would fill the memory."""
    flat = array("q")
    for entry in entries:
        flat.extend(entry)
    offsets, sizes, labels = np.ascontiguousarray(np.array(flat, np.int64).reshape(-1, 3).T)
    return Index(offsets, sizes, labels, names)


def indexed(tar: Path, asked: str, make: Callable[[BinaryIO, int], Index]) -> tuple[Index, tuple[int, int]]:
    """What `make` finds in a tar of so many bytes, or found earlier, and the tar's `stamp`.

    `asked` tells one such function from another.

    Raises `UserError` for a tar that cannot be read, as `make` does, and for one that is changed meanwhile.
    """
    try:
        with tar.open("rb", BUFFER) as file:
            begun = stamp(file.fileno())
            key, size = _key(file, asked), begun[0]
            beside = tar.with_name(f".{tar.name}.index")
            found = _read(beside, key, size)
            if found is None:
                found = make(file, size)
                if stamp(file.fileno()) != begun:
                    raise UserError(f"{tar} was changed while it was read.", "start again once it is whole")
                _keep(beside, key, found)
            return found, begun
    except OSError as error:
        raise UserError(f"{tar} cannot be read: {error.strerror}.") from None


def stamp(file: int) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds of an open file, by its descriptor."""
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def _key(file: BinaryIO, asked: str) -> str:
    size, changed = stamp(file.fileno())
    digest = hashlib.sha256(f"{VERSION} {asked} {size} {changed} ".encode())
    for begin in (0, max(0, size - ENDS)):
        file.seek(begin)
        digest.update(file.read(ENDS))
    return digest.hexdigest()


def _read(beside: Path, key: str, size: int) -> Index | None:
    """The index that was kept, unless it is of something else, or damaged: then it is made anew."""
    if not beside.is_file():  # to open a pipe would wait for ever
        return None
    try:
        with safe_open(beside, framework="np") as file:
            told = (file.metadata() or {}).get("key", "")
            if not told.startswith(key):
                return None
            offsets, sizes, labels = (np.asarray(file.get_tensor(name)) for name in COLUMNS)
            names = file.get_tensor("names").tobytes().decode("utf-8")
    except Exception:  # safetensors and numpy raise many kinds; whichever it is, the index is at fault
        return None
    shaped = all(column.dtype == np.int64 and column.shape == (labels.size,) for column in (offsets, sizes, labels))
    if not shaped or ((offsets < 0) | (sizes < 0) | (sizes > LARGEST) | (offsets > size - sizes) | (labels < 0)).any():
        return None
    found = Index(offsets, sizes, labels, names.split("\n") if names else [])
    whole = told == key + _sum(found) and not (found.names and (labels >= len(found.names)).any())
    return found if whole else None


def _keep(beside: Path, key: str, index: Index) -> None:
    """A folder that cannot be written, or a full disk, only costs the time of finding it again."""
    names = np.frombuffer("\n".join(index.names).encode(), np.uint8)
    columns = zip(COLUMNS, index[:3], strict=True)
    try:
        # one entry: several would be written in no order
        write_atomic(beside, save({"names": names, **dict(columns)}, {"key": key + _sum(index)}))
    except UserError:
        return


def _sum(index: Index) -> str:
    """By which a label or an offset that has lost a bit is noticed."""
    digest = hashlib.sha256("\n".join(index.names).encode())
    for column in index[:3]:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
