"""Images that lie in tars, read at any place in any order: one `pread` an image, and nothing is unpacked."""

import hashlib
import json
import os
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd2edge.data import Images, Ints, Preprocessing, Split, decode
from kd2edge.data._aligned import read_all
from kd2edge.data._tar import BLOCK, name_before
from kd2edge.data._tar_index import stamp
from kd2edge.errors import UserError

OPEN = 256  # files at a time: a process may have 1,024


class Places:
    """Where N images lie: `tars`, and of each image which of them int32 [N], first byte and size int64 [N].

    `stamps` are the tars' sizes and times of change when they were indexed.
    """

    def __init__(
        self, tars: list[Path], which: npt.NDArray[np.int32], offsets: Ints, sizes: Ints, stamps: list[tuple[int, int]]
    ) -> None:
        self.tars, self.which, self.offsets, self.sizes, self.stamps = tars, which, offsets, sizes, stamps

    def take(self, chosen: Ints) -> "Places":
        return Places(self.tars, self.which[chosen], self.offsets[chosen], self.sizes[chosen], self.stamps)

    def content(self, place: int) -> bytes:
        """The bytes of an image. Raises `UserError` where its tar is gone, cut or changed since it was indexed."""
        number = int(self.which[place])
        size = int(self.sizes[place])
        path, file = self.tars[number], _open(self.tars[number])
        if stamp(file.number) != self.stamps[number]:
            _open.cache_clear()  # it may have been opened for an earlier split, before it was replaced
            file = _open(path)
            if stamp(file.number) != self.stamps[number]:
                raise UserError(f"{path} was changed since it was indexed.", "start again with the file as it is now")
        found = os.pread(file.number, size, int(self.offsets[place]))
        if len(found) != size:
            raise UserError(f"{path} ends within {self.name(place)}.", "take the file anew")
        return found

    def name(self, place: int) -> str:
        """How an image is called within its tar, and the tar."""
        path = self.tars[int(self.which[place])]
        file = _open(path)  # held: another thread may drop it from the cache meanwhile
        block = os.pread(file.number, BLOCK, max(0, int(self.offsets[place]) - BLOCK))
        return f"{name_before(block)!r} in {path}"


class Packed(Split):
    """A split of images in tars; any number of threads may read it, and processes, forked or by pickling."""

    def __init__(self, places: Places, labels: Ints, classes: list[str], preprocessing: Preprocessing) -> None:
        self.places, self.labels, self.classes, self.groups = places, labels, classes, {}
        self._preprocessing = preprocessing

    def read(self, index: Ints) -> Images:
        """As `Split.read`; raises `UserError`, naming file and tar, for one that cannot be read or decoded."""
        p = self._preprocessing
        return read_all(self._image, index, (*p.size, p.channels))

    def only(self, chosen: Ints) -> "Packed":
        """The same classes, and the images at int64 [M] places."""
        return Packed(self.places.take(chosen), self.labels[chosen], self.classes, self._preprocessing)

    def fingerprint(self) -> str:
        """By the tars' names, sizes and times of change, places, labels, and how they are read; no image is decoded."""
        places = self.places
        tars = [[tar.name, *stamp] for tar, stamp in zip(places.tars, places.stamps, strict=True)]
        digest = hashlib.sha256(json.dumps([tars, self.classes, self._preprocessing.model_dump()]).encode())
        for column in (places.which, places.offsets, places.sizes, self.labels):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def _image(self, place: int) -> Images:
        places = self.places
        return decode(BytesIO(places.content(place)), self._preprocessing, lambda: places.name(place))


class _Opened:
    """A file that is closed once nobody reads it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        try:
            self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when the process ends
        if self.number >= 0:
            close(self.number)


@lru_cache(maxsize=OPEN)
def _open(path: Path) -> _Opened:
    """Kept open for the next image; a reader that holds one which is dropped here goes on undisturbed."""
    return _Opened(path)
