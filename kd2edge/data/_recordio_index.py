"""The `.idx` beside a `.rec`: a line for each record, its number and its first byte, with a tab between them.

Read block by block, all its numbers at once: an index of seventeen million lines takes two seconds, not a minute.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kd2edge.data import Ints
from kd2edge.errors import UserError

BLOCK = 1 << 22  # bytes
DIGITS = 18  # what an int64 surely holds
LONGEST = 2 * DIGITS + 3  # bytes of a line


def read_index(path: Path, size: int) -> tuple[Ints, Ints]:
    """Keys int64 [N], ascending, and offsets int64 [N], all before `size`. Raises `UserError`, naming a faulty line."""
    blocks, lines = [np.empty((0, 2), np.int64)], 0
    try:
        with path.open("rb") as file:
            for block in _blocks(file):
                blocks.append(_entries(block, lines, size, path))
                lines += len(blocks[-1])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "the .rec needs its .idx beside it") from None
    keys, offsets = np.concatenate(blocks).T
    if not len(keys):
        raise _damaged(path, "it is empty")
    if not (np.diff(keys) > 0).all():
        order = np.argsort(keys, kind="stable")
        keys, offsets = keys[order], offsets[order]
    for twice in np.flatnonzero(keys[1:] == keys[:-1])[:1]:
        raise _damaged(path, f"it names record {keys[twice]:,} twice")
    if not (np.diff(offsets) > 0).all():
        _distinct(keys, offsets, path)
    return np.ascontiguousarray(keys), np.ascontiguousarray(offsets)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """The file in blocks of whole lines, each ended by a newline."""
    rest = b""
    while more := file.read(BLOCK):
        whole, newline, rest = (rest + more).replace(b"\r\n", b"\n").rpartition(b"\n")
        if newline:
            yield whole + newline
        if len(rest) > LONGEST:
            break
    if rest:
        yield rest + b"\n"


def _entries(block: bytes, lines: int, size: int, path: Path) -> Ints:
    """int64 [N, 2] of a block that follows so many lines."""
    if _well_formed(np.frombuffer(block, np.uint8)):
        entries = np.fromstring(block, np.int64, sep=" ").reshape(-1, 2)
        if (entries[:, 1] % 4 == 0).all() and (entries[:, 1] < size).all():
            return entries
    for number, line in enumerate(block[:-1].split(b"\n"), lines + 1):
        key, _, offset = line.partition(b"\t")
        whole = key.isdigit() and offset.isdigit() and len(key) <= DIGITS and len(offset) <= DIGITS
        if not whole or int(offset) % 4 or int(offset) >= size:
            raise _damaged(path, f"line {number:,} is no record's place")
    raise AssertionError("a block is refused, but none of its lines is")


def _well_formed(block: npt.NDArray[np.uint8]) -> bool:
    """Whether every line is digits, a tab, digits: separators alternate, and 1 to 18 digits lie between them."""
    separators = np.flatnonzero((block == 9) | (block == 10))
    digits = np.count_nonzero((block >= 48) & (block <= 57))
    lengths = np.diff(separators, prepend=-1) - 1
    return bool(
        len(separators) % 2 == 0
        and digits + len(separators) == len(block)
        and (block[separators].reshape(-1, 2) == (9, 10)).all()
        and lengths.min() >= 1
        and lengths.max() <= DIGITS
    )


def _distinct(keys: Ints, offsets: Ints, path: Path) -> None:
    order = np.argsort(offsets, kind="stable")
    for same in np.flatnonzero(np.diff(offsets[order]) == 0)[:1]:
        one, other = sorted(keys[order[same : same + 2]])
        raise _damaged(path, f"it says that records {one:,} and {other:,} begin at the same byte")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"The index {path} is damaged: {why}.", "take the file anew")
