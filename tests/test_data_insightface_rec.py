"""Insightface's RecordIO: read without MXNet, damage told with the number of its record, the real one where at hand."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd2edge.data import open_source
from kd2edge.data._recordio import MAGIC, Records
from kd2edge.errors import UserError
from tests.test_data_insightface import JPEGS, REAL, SIDE, pixels, real


def header(labels: list[float], number: int) -> bytes:
    """MXNet's IRHeader: one label in its place, several behind it."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], number, 0)
    return struct.pack("<IfQQ", len(labels), 0, number, 0) + struct.pack(f"<{len(labels)}f", *labels)


def framed(record: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", MAGIC, kind << 29 | len(record)) + record + bytes(-len(record) % 4)


def in_parts(record: bytes) -> bytes:
    """Cut where the magic number stands at a multiple of four, as dmlc-core's writer does."""
    magic = struct.pack("<I", MAGIC)
    at = [i for i in range(0, len(record) - 3, 4) if record[i : i + 4] == magic]
    if not at:
        return framed(record)
    begins, ends = [0, *(i + 4 for i in at)], [*at, len(record)]
    parts = [record[a:b] for a, b in zip(begins, ends, strict=True)]
    kinds = [1, *[2] * (len(parts) - 2), 3]
    return b"".join(framed(part, kind) for part, kind in zip(parts, kinds, strict=True))


LABELS = [0, 0, 1, 2]


def training_set(folder: Path, several: bool = False) -> dict[str, Any]:
    """Header, four images of three people, a record for each person; with `several`, image labels are a vector."""
    records = [header([5.0, 8.0], 0)]
    records += [
        header([float(label), 1.0] if several else [float(label)], number) + encoded
        for number, (label, encoded) in enumerate(zip(LABELS, JPEGS, strict=True), 1)
    ]
    records += [header([float(a), float(b)], number) for number, (a, b) in enumerate([(1, 3), (3, 4), (4, 5)], 5)]
    content, index = b"", ""
    for number, record in enumerate(records):
        index += f"{number}\t{len(content)}\n"
        content += in_parts(record)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text(index)
    (folder / "property").write_text(f"3,{SIDE},{SIDE}")
    return {"name": "insightface_rec", "path": str(folder)}


@pytest.mark.parametrize("several", [False, True])
def test_a_training_set_is_read_without_mxnet(several: bool, tmp_path: Path) -> None:
    split = open_source(training_set(tmp_path, several)).split("train")
    assert split.labels.tolist() == LABELS
    assert split.classes == ["0", "1", "2"]
    index = np.array([3, 0, 0])
    np.testing.assert_array_equal(split.read(index), [pixels(JPEGS[i]) for i in index])
    assert (
        split.fingerprint()
        == open_source({"name": "insightface_rec", "path": str(tmp_path)}).split("train").fingerprint()
    )


def test_a_record_that_holds_the_magic_number_is_joined_again(tmp_path: Path) -> None:
    magic = struct.pack("<I", MAGIC)
    record = b"head" + magic + magic + b"tail!"
    (tmp_path / "train.rec").write_bytes(in_parts(record) + framed(b"next"))
    (tmp_path / "train.idx").write_text(f"7\t0\n9\t{len(in_parts(record))}\n")
    records = Records(tmp_path / "train.rec")
    assert records.record(7) == record
    assert records.record(9) == b"next"
    with pytest.raises(UserError, match="no record 8"):
        records.record(8)


def spoiled(folder: Path, change: Callable[[bytearray, list[int]], None]) -> dict[str, Any]:
    options = training_set(folder)
    content = bytearray((folder / "train.rec").read_bytes())
    offsets = [int(line.split("\t")[1]) for line in (folder / "train.idx").read_text().splitlines()]
    change(content, offsets)
    (folder / "train.rec").write_bytes(content)
    return options


def flip(record: int, offset: int, bit: int = 0) -> Callable[[bytearray, list[int]], None]:
    def change(content: bytearray, offsets: list[int]) -> None:
        content[offsets[record] + offset] ^= 1 << bit

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip(2, 0), r"Record 2 of .*train\.rec is damaged: it begins with 0xced7230b"),
        (flip(3, 6, 7), r"Record 3 of .* is damaged: its length is [\d,]+ bytes"),
        (flip(3, 7, 6), r"Record 3 of .* is damaged: it begins with a later part"),
        (flip(3, 14, 7), r"Record 3 of .* is damaged: it is of person"),
        (flip(0, 8 + 24 + 2, 6), r"Record 0 of .* is damaged: it says that record 6 is the last image"),
        (flip(0, 8 + 24 + 3, 0), r"Record 0 of .* is damaged: it says that the images end"),
        (flip(4, 8 + 24), r"Record 4 of .*train\.rec cannot be decoded"),
        (lambda content, offsets: content.__delitem__(slice(offsets[4] + 60, None)), r"damaged: line \d|Record 4"),
    ],
)
def test_a_flipped_bit_is_told_with_the_number_of_its_record(
    change: Callable[[bytearray, list[int]], None], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        open_source(spoiled(tmp_path, change)).split("train").read(np.arange(4))


@given(places=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=3), index=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_mutated_training_set_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]], index: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    options = training_set(folder)
    path = folder / ("train.idx" if index else "train.rec")
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        split = open_source(options).split("train")
        assert split.read(np.arange(len(split))).shape == (len(split), SIDE, SIDE, 3)
    except UserError:
        pass


@pytest.mark.parametrize("content", ["", "3,16", "x,16,16", "3,16,16,1", "0,16,16", "3,99999,16"])
def test_a_property_file_that_says_nothing_is_told(content: str, tmp_path: Path) -> None:
    options = training_set(tmp_path)
    (tmp_path / "property").write_text(content)
    with pytest.raises(UserError, match="how many people"):
        open_source(options)


def test_more_people_than_any_set_has_are_refused_before_they_are_named(tmp_path: Path) -> None:
    options = training_set(tmp_path)
    (tmp_path / "property").write_text(f"16777216,{SIDE},{SIDE}")
    with pytest.raises(UserError, match="property says 16,777,216 people, of 4 images"):
        open_source(options).split("train")
    (tmp_path / "property").write_text(f"2000,{SIDE},{SIDE}")
    assert len(open_source(options).split("train").classes) == 2000  # some may have no image


def test_missing_files_and_splits_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no train\.rec"):
        open_source({"name": "insightface_rec", "path": str(tmp_path)})
    with pytest.raises(UserError, match="no split 'test'"):
        open_source(training_set(tmp_path)).split("test")


@real
def test_the_real_training_set() -> None:
    split = open_source({"name": "insightface_rec", "path": str(REAL)}).split("train")
    assert (len(split), len(np.unique(split.labels)), len(split.classes)) == (9525, 4038, 4038)
    assert int((np.bincount(split.labels) == 1).sum()) == 2854
    assert split.read(np.array([0, 9524])).shape == (2, 112, 112, 3)
