"""Images on their way to the worker processes: a split decoded once, for all of them, into a file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd2edge.data import PairList, Split, Templates
from kd2edge.errors import UserError
from kd2edge.files import disk_fault

CHUNK = 256


@dataclass(frozen=True)
class Decoded:
    """A .npy of uint8 [N, H, W, C], and the sha256 of its pixels, labels and listed pairs."""

    path: Path
    sha256: str
    images: int


def decode(data: Split, path: Path) -> Decoded:
    """Write a split to `path`. Raises `UserError` when the split is empty, or the disk full."""
    if not len(data):
        raise UserError("The split to measure on is empty.")
    digest = hashlib.sha256(np.ascontiguousarray(data.labels).tobytes())
    if isinstance(data.protocol, PairList):
        digest.update(data.protocol.pairs.tobytes() + data.protocol.same.tobytes())
    if isinstance(data.protocol, Templates):
        of_images = (data.protocol.template, data.protocol.media, data.protocol.faceness)
        for part in (*of_images, data.protocol.pairs, data.protocol.same):
            digest.update(part.tobytes())
    shape = (len(data), *data.read(np.arange(1)).shape[1:])
    try:
        with path.open("wb") as file:  # written, not mapped: where a map finds no room the process ends by a signal
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in range(0, len(data), CHUNK):
                images = data.read(np.arange(start, min(start + CHUNK, len(data)))).tobytes()
                file.write(images)
                digest.update(images)
    except OSError as error:
        raise disk_fault(error, path) from error
    return Decoded(path, digest.hexdigest(), len(data))
