"""Arrays of an .npz, looked at before they are read: no pickled objects, and no more memory than the set can need.

A zip can claim a terabyte in a kilobyte, and numpy allocates what a header claims.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from kd2edge.errors import UserError, first_line

MOST = 1 << 28  # bytes of an array: 60,000 images of CIFAR have 184 million
HEADER = 10_000  # characters, numpy's own bound
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes; others may ask for a window of gigabytes


def read_npz(path: Path, pairs: list[tuple[str, str]], hint: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The arrays of the first of these pairs of names that is there, of numbers or bools, at least one-dimensional.

    Raises `UserError` for a file that is missing or damaged, holds none of the pairs, or anything else under them.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
            pair = next((pair for pair in pairs if {f"{name}.npy" for name in pair} <= names), None)
            if pair is None:
                raise ValueError(f"it has none of {'; '.join(' and '.join(pair) for pair in pairs)}")
            return _array(file, pair[0]), _array(file, pair[1])
    except Exception as error:  # zipfile and numpy raise many kinds; whichever it is, the file is at fault
        raise UserError(f"{path} cannot be read: {first_line(error)}.", hint) from None


def _array(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    info = file.getinfo(f"{name}.npy")
    if info.compress_type not in PACKINGS:
        raise ValueError(f"{name} is compressed in a way that numpy does not use")
    with file.open(info) as member:
        version = npy.read_magic(member)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, columns_first, kind = read(member, max_header_size=HEADER)
        if kind.kind not in "biu" or not 1 <= len(shape) <= 4:
            raise ValueError(f"{name} is of {kind} {list(shape)}, and only arrays of whole numbers are read")
        size = int(np.prod(shape, dtype=object)) * kind.itemsize
        if not 0 <= size <= MOST:
            raise ValueError(f"{name} claims {size:,} bytes")
        content = member.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{name} does not have the {size:,} bytes of its shape")
    found = np.frombuffer(content, kind).reshape(shape, order="F" if columns_first else "C")
    return np.ascontiguousarray(found)
