"""RecordIO, the container of MXNet in which insightface ships training sets: records of a header and an image.

A record is a magic number, a length with a flag in its upper three bits, the bytes, and zeros up to a multiple of four
(dmlc-core, `recordio.h`). Bytes that happen to hold the magic number are cut there into parts. An image's record opens
with MXNet's `IRHeader`: flag, label, two identifiers; with flag > 0 so many float32 labels follow it.
"""

import mmap
import struct
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd2edge.data import Ints
from kd2edge.data._recordio_index import read_index
from kd2edge.errors import UserError

MAGIC = 0xCED7230A
MARK = struct.pack("<I", MAGIC)
FRAME = 8  # bytes of magic and length
LENGTH = (1 << 29) - 1
HEADER = 24  # bytes of flag, label, id, id2
MOST_PARTS = 64
WHOLE, FIRST, MIDDLE, LAST = range(4)
LOOK = 0.1  # seconds between looks at the file's size, which cost as much as finding a record
CHUNK = 1 << 20  # records whose labels are looked at together


class Records:
    """A `.rec` beside its `.idx`, memory-mapped. `keys` int64 [N] ascending, `offsets` int64 [N] in bytes.

    Any number of threads may read, and processes: forked, the map is shared; pickled, it is opened anew.
    """

    def __init__(self, path: Path) -> None:
        """Raises `UserError` where either file is missing or damaged; no record is looked at yet."""
        self.path = path
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        self.seen = time.monotonic()
        self.data: npt.NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)
        self.keys, self.offsets = read_index(path.with_suffix(".idx"), len(self.map))

    def __reduce__(self) -> tuple[type["Records"], tuple[Path]]:
        return Records, (self.path,)

    def places(self, keys: Ints) -> Ints:
        """Where in `self.keys` each one is. Raises `UserError` for one that is not there."""
        places = np.searchsorted(self.keys, keys)
        known = self.keys[np.minimum(places, len(self.keys) - 1)] == keys
        if not known.all():
            raise UserError(f"{self.path} has no record {keys[~known][0]:,} in its index.")
        return places

    def record(self, key: int) -> bytes:
        """The bytes of a record. Raises `UserError`, with its number, for one that is not there or damaged."""
        return self._at(int(self.places(np.array([key]))[0]))

    def _at(self, place: int) -> bytes:
        key = self.keys[place]
        if time.monotonic() > self.seen + LOOK:
            self._still_whole()
        kind, part, after = self._part(key, int(self.offsets[place]))
        if kind != WHOLE:
            part, after = self._joined(key, kind, part, after)
        if self.map[after : after + 4] != MARK and after < len(self.map) and after not in self.offsets:
            raise self.damaged(key, "by its length it ends where no other begins")
        return part

    def _still_whole(self) -> None:
        """Raise `UserError` if the file was cut since: touching what is gone would end the process."""
        if self.map.size() < len(self.map):
            raise UserError(f"{self.path} has become shorter since it was opened.", "start again with the whole file")
        self.seen = time.monotonic()

    def _joined(self, key: int, kind: int, part: bytes, after: int) -> tuple[bytes, int]:
        if kind != FIRST:
            raise self.damaged(key, "it begins with a later part of another")
        parts = [part]
        while kind != LAST:
            kind, part, after = self._part(key, after)
            if kind not in (MIDDLE, LAST) or len(parts) == MOST_PARTS:
                raise self.damaged(key, "its parts do not follow one another")
            parts.append(part)
        return MARK.join(parts), after

    def _part(self, key: int, at: int) -> tuple[int, bytes, int]:
        """The kind and bytes of what lies at a position, and where the next begins."""
        frame = self.map[at : at + FRAME]
        if len(frame) < FRAME:
            raise self.damaged(key, "it begins behind the end of the file")
        if frame[:4] != MARK:
            begins = int.from_bytes(frame[:4], "little")
            raise self.damaged(key, f"it begins with {begins:#010x} instead of the magic number")
        word = int.from_bytes(frame[4:], "little")
        begin = at + FRAME
        end = begin + (word & LENGTH)
        after = (end + 3) & ~3
        if end > len(self.map):
            raise self.damaged(
                key, f"its length is {end - begin:,} bytes, of which the file has {len(self.map) - begin:,}"
            )
        if any(self.map[end:after]):
            raise self.damaged(key, "what fills it up to a multiple of four bytes is not zero")
        return word >> 29, self.map[begin:end], after

    def image(self, key: int) -> bytes:
        """The encoded image of a record, without its header."""
        return self.image_at(int(self.places(np.array([key]))[0]))

    def image_at(self, place: int) -> bytes:
        """As `image`, for the record at a place in `keys`."""
        record = self._at(place)
        return record[self._end_of_header(self.keys[place], record) :]

    def values(self, key: int) -> list[float]:
        """The labels of a record's header: one, or as many as its flag says."""
        record = self.record(key)
        end = self._end_of_header(key, record)
        if end == HEADER:
            return list(struct.unpack_from("<f", record, 4))
        return list(struct.unpack_from(f"<{(end - HEADER) // 4}f", record, HEADER))

    def _end_of_header(self, key: int, record: bytes) -> int:
        if len(record) < HEADER:
            raise self.damaged(key, f"its {len(record)} bytes have no room for a header")
        flag = int.from_bytes(record[:4], "little")
        end = HEADER + 4 * flag
        if end > len(record):
            raise self.damaged(key, f"its header promises {flag:,} labels, more than it has room for")
        return end

    def labels(self, keys: Ints) -> npt.NDArray[np.float32]:
        """The first label of each record: float32 [N]. Raises `UserError` as `record` does."""
        found = np.empty(len(keys), np.float32)
        for start in range(0, len(keys), CHUNK):
            found[start : start + CHUNK] = self._labels(keys[start : start + CHUNK])
        return found

    def _labels(self, keys: Ints) -> npt.NDArray[np.float32]:
        at = self.offsets[self.places(keys)]
        for key in keys[(at + FRAME + HEADER + 4 > len(self.map)) | (self._words(at) != MAGIC)][:1]:
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
