"""MATLAB's files of labels, as SciPy writes them and as nobody should."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from kd2edge.data._mat import read_mat
from kd2edge.errors import UserError
from tests.test_data_photo_sets import annotations, cell


def test_matlabs_arrays(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    text = ["grün", "", "x" * 300]
    saved = {"a": cell(text), "b": np.arange(5.0), "c": annotations([(1, "x"), (2, "")], ["n", "t"]), "d": 7}
    for packed in (False, True):
        scipy.io.savemat(path, saved, do_compression=packed)
        assert [value or "" for value in read_mat(path, "a", "")] == text
        assert (read_mat(path, "b", ""), read_mat(path, "d", "")) == ([0, 1, 2, 3, 4], [7])
        assert [(row["n"], row["t"] or "") for row in read_mat(path, "c", "")] == [(1, "x"), (2, "")]
    with pytest.raises(UserError, match="it has no array 'e'"):
        read_mat(path, "e", "")
    for content, words in (
        (b"", "no MATLAB file of level 5"),
        (b"\x89HDF", "no MATLAB file of level 5"),
        (path.read_bytes()[:160], "is not whole|incomplete"),
        (path.read_bytes()[:128] + b"\x0f\0\0\0\4\0\0\0junk", "is not read"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_mat(path, "a", "")
    with pytest.raises(UserError, match="cannot be read"):
        read_mat(tmp_path / "gone.mat", "a", "")


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def structs(width: bytes, values: bytes) -> bytes:
    """An array "a" of structs of one field; `width` is the element that says how long fields' names are."""
    flags = element(6, bytes([2, *[0] * 7])) + element(5, struct.pack("<ii", 1, 1))
    return element(14, flags + element(1, b"a") + width + element(1, b"fname\0\0\0") + values)


def test_a_small_mat_takes_no_gigabytes_and_may_count_in_any_type(tmp_path: Path) -> None:
    """Two million empty values in 25 kB; and a width of 8.0, or of no number."""
    path, begin = tmp_path / "x.mat", b"x" * 124 + b"\0\1IM"
    packed = zlib.compress(structs(element(5, struct.pack("<i", 8)), struct.pack("<II", 14, 0) * (1 << 21)))
    path.write_bytes(begin + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(UserError, match="unpacks to more than 8,388,608 bytes"):
        read_mat(path, "a", "")
    for width, expected in ((8.0, [{"fname": []}]), (float("nan"), None), (8.5, None)):
        path.write_bytes(begin + structs(element(9, struct.pack("<d", width)), struct.pack("<II", 14, 0)))
        if expected is not None:
            assert read_mat(path, "a", "") == expected
            continue
        with pytest.raises(UserError, match="which no list of labels needs"):
            read_mat(path, "a", "")
