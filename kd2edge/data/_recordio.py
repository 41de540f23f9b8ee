"""RecordIO, the container of MXNet in which insightface ships training sets: records of a header and an image.

A record is a magic number, a length with a flag in its upper three bits, the bytes, and zeros up to a multiple of four
(dmlc-core, `recordio.h`). Bytes that happen to hold the magic number are cut there into parts. An image's record opens
with MXNet's `IRHeader`: flag, label, two identifiers; with flag > 0 so many float32 labels follow it.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd2edge.data import Ints
from kd2edge.errors import UserError

MAGIC = 0xCED7230A
FRAME = 8  # bytes of magic and length
LENGTH = (1 << 29) - 1
HEADER = 24  # bytes of flag, label, id, id2
MOST_PARTS = 64
WHOLE, FIRST, MIDDLE, LAST = range(4)


class Records:
    """A `.rec` beside its `.idx`, memory-mapped. `keys` int64 [N] ascending, `offsets` int64 [N] in bytes."""

    def __init__(self, path: Path) -> None:
        """Raises `UserError` where either file is missing or damaged; no record is looked at yet."""
        self.path = path
        try:
            self.data: npt.NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        self.keys, self.offsets = _index(path.with_suffix(".idx"), len(self.data))

    def record(self, key: int) -> bytes:
        """The bytes of a record. Raises `UserError`, with its number, for one that is not there or damaged."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            raise UserError(f"{self.path} has no record {key:,} in its index.")
        at = int(self.offsets[place])
        kind, part, at = self._part(key, at)
        if kind == WHOLE:
            return part
        if kind != FIRST:
            raise self.damaged(key, "it begins with a later part of another")
        parts = [part]
        while kind != LAST:
            kind, part, at = self._part(key, at)
            if kind not in (MIDDLE, LAST) or len(parts) == MOST_PARTS:
                raise self.damaged(key, "its parts do not follow one another")
            parts.append(part)
        return struct.pack("<I", MAGIC).join(parts)

    def _part(self, key: int, at: int) -> tuple[int, bytes, int]:
        """The kind and bytes of what lies at a position, and where the next begins."""
        frame = self.data[at : at + FRAME].tobytes()
        if len(frame) < FRAME:
            raise self.damaged(key, "it begins behind the end of the file")
        magic, word = struct.unpack("<II", frame)
        if magic != MAGIC:
            raise self.damaged(key, f"it begins with {magic:#010x} instead of the magic number")
        length, begin = word & LENGTH, at + FRAME
        if begin + length > len(self.data):
            raise self.damaged(key, f"its length is {length:,} bytes, of which the file has {len(self.data) - begin:,}")
        return word >> 29, self.data[begin : begin + length].tobytes(), begin + (length + 3) // 4 * 4

    def image(self, key: int) -> bytes:
        """The encoded image of a record, without its header."""
        record = self.record(key)
        return record[self._header(key, record)[1] :]

    def values(self, key: int) -> list[float]:
        """The labels of a record's header: one, or as many as its flag says."""
        record = self.record(key)
        return self._header(key, record)[0]

    def _header(self, key: int, record: bytes) -> tuple[list[float], int]:
        if len(record) < HEADER:
            raise self.damaged(key, f"its {len(record)} bytes have no room for a header")
        flag, label = struct.unpack_from("<If", record)
        end = HEADER + 4 * flag
        if end > len(record):
            raise self.damaged(key, f"its header promises {flag:,} labels, more than it has room for")
        return (list(struct.unpack_from(f"<{flag}f", record, HEADER)) if flag else [label]), end

    def labels(self, keys: Ints) -> npt.NDArray[np.float32]:
        """The first label of each record, all at once: float32 [N]. Raises `UserError` as `record` does."""
        places = np.searchsorted(self.keys, keys)
        known = self.keys[np.minimum(places, len(self.keys) - 1)] == keys
        if not known.all():
            raise UserError(f"{self.path} has no record {keys[~known][0]:,} in its index.")
        at = self.offsets[places]
        for key in keys[(at + FRAME + HEADER + 4 > len(self.data)) | (self._words(at) != MAGIC)][:1]:
            self.record(int(key))  # which says what is wrong with it
            raise self.damaged(int(key), "it has no room for an image")
        several = self._words(at + FRAME) > 0
        where = at + FRAME + np.where(several, HEADER, 4)
        return self._words(where).view(np.float32)

    def _words(self, at: Ints) -> npt.NDArray[np.uint32]:
        """The little-endian 32-bit word at each position, as far as the file goes."""
        bytes_at = np.minimum(at[:, None] + np.arange(4), len(self.data) - 1)
        return np.ascontiguousarray(self.data[bytes_at]).view("<u4")[:, 0].astype(np.uint32)

    def damaged(self, key: int, why: str) -> UserError:
        """A fault of a record, by its number."""
        return UserError(f"Record {key:,} of {self.path} is damaged: {why}.", "take the file anew")


def _index(path: Path, size: int) -> tuple[Ints, Ints]:
    """Keys, ascending, and offsets: a line of the file is both, with a tab between them."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "the .rec needs its .idx beside it") from None
    found = np.empty((len(lines), 2), np.int64)
    for number, line in enumerate(lines, 1):
        found[number - 1] = _entry(line, number, size, path)
    order = np.argsort(found[:, 0], kind="stable")
    keys, offsets = found[order, 0], found[order, 1]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if not len(keys) or len(twice):
        which = f"it names record {keys[twice[0]]:,} twice" if len(keys) else "it is empty"
        raise UserError(f"The index {path} is damaged: {which}.", "take the file anew")
    return keys, offsets


def _entry(line: bytes, number: int, size: int, path: Path) -> tuple[Any, Any]:
    key, _, offset = line.partition(b"\t")
    whole = key.isdigit() and offset.isdigit() and len(key) <= 18 and len(offset) <= 18
    if not whole or int(offset) % 4 or int(offset) >= size:
        raise UserError(f"The index {path} is damaged: line {number:,} is no record's place.", "take the file anew")
    return int(key), int(offset)
