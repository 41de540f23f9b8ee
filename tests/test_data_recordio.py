"""RecordIO close up: every bit of a record's frame and header, the index in blocks, files that change while open."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd2edge.data import Images, _aligned, _recordio, _recordio_index, open_source
from kd2edge.data._aligned import Aligned, read_all
from kd2edge.data._recordio import Records
from kd2edge.data._recordio_index import read_index
from kd2edge.errors import UserError
from tests.test_data_insightface import JPEGS, SIDE, pixels
from tests.test_data_insightface_rec import LABELS, framed, header, training_set

FRAME_AND_HEADER = 8 + 24


def outcome(options: dict[str, Any]) -> tuple[str, Images | None]:
    """What a training set's reader says against it, or its images."""
    try:
        return "", open_source(options).split("train").read(np.arange(4))
    except UserError as error:
        return error.message, None


def test_every_bit_of_frame_and_header_is_told_with_its_record_or_changes_nothing(tmp_path: Path) -> None:
    """Silent may stay the two identifiers, a label that is another's, and a length that takes in padding."""
    options = training_set(tmp_path)
    path = tmp_path / "train.rec"
    whole = path.read_bytes()
    begin = int((tmp_path / "train.idx").read_text().split()[2 * 3 + 1])  # of record 3
    for bit in range(8 * FRAME_AND_HEADER):
        spoiled = bytearray(whole)
        spoiled[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoiled)
        told, images = outcome(options)
        if told:
            assert "Record 3 of" in told, bit
        else:
            assert bit >= 8 * (8 + 4) or bit in (32, 33), "a bit of the frame or the flag went unseen"
            np.testing.assert_array_equal(images, [pixels(encoded) for encoded in JPEGS])


def test_a_label_that_became_another_persons_is_told(tmp_path: Path) -> None:
    """0 and 0 are one person's by record 5; the second now says 1."""
    options = training_set(tmp_path)
    content = bytearray((tmp_path / "train.rec").read_bytes())
    begin = int((tmp_path / "train.idx").read_text().split()[2 * 2 + 1])
    content[begin + 8 + 4 : begin + 8 + 8] = struct.pack("<f", 1.0)
    (tmp_path / "train.rec").write_bytes(content)
    with pytest.raises(UserError, match=r"Record 2 of .* of person 1, but record 5 says that the images from 1 to 2"):
        open_source(options).split("train")


def test_without_a_header_record_every_record_is_an_image(tmp_path: Path) -> None:
    """As MXNet's im2rec writes: numbers from 0, in the order of a shuffled list, one label each."""
    content, lines = b"", []
    for key in (2, 0, 3, 1):
        lines.append(f"{key}\t{len(content)}")
        content += framed(header([float(LABELS[key])], key) + JPEGS[key])
    (tmp_path / "train.rec").write_bytes(content)
    (tmp_path / "train.idx").write_text("\n".join(lines))
    (tmp_path / "property").write_text(f"3,{SIDE},{SIDE}")
    split = open_source({"name": "insightface_rec", "path": str(tmp_path)}).split("train")
    assert split.labels.tolist() == LABELS
    np.testing.assert_array_equal(split.read(np.arange(4)), [pixels(encoded) for encoded in JPEGS])


LINES = st.lists(st.tuples(st.integers(0, 10**17), st.integers(0, 10**6)), min_size=1, max_size=30)


@given(entries=LINES, block=st.integers(1, 64), crlf=st.booleans(), ended=st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_index_is_read_alike_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[int, int]], block: int, crlf: bool, ended: bool
) -> None:
    distinct = {key: number for number, (key, _) in enumerate(entries)}
    places = {key: 4 * number for key, number in distinct.items()}
    path = tmp_path_factory.getbasetemp() / "blocks.idx"
    newline = "\r\n" if crlf else "\n"
    text = newline.join(f"{key}\t{place}" for key, place in places.items()) + newline * ended
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_recordio_index, "BLOCK", block)
        keys, offsets = read_index(path, 1 << 20)
    assert dict(zip(keys.tolist(), offsets.tolist(), strict=True)) == places
    assert keys.tolist() == sorted(places)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("0\t0\n1\t8\n1\t16\n", "names record 1 twice"),
        ("0\t0\n7\t8\n4\t8\n", "records 4 and 7 begin at the same byte"),
        ("0\t0\n1\t6\n", "line 2 is"),
        ("0\t0\n\n1\t8\n", "line 2 is"),
        ("0\t0\n1 8\n", "line 2 is"),
        ("0\t0\n1\t8\t9\n", "line 2 is"),
        ("0\t0\n1\t-8\n", "line 2 is"),
        ("0\t0\n1\t100\n", "line 2 is"),
        ("0\t0\n" + "1" * 19 + "\t8\n", "line 2 is"),
        ("0\t0\n" + "1" * 500_000, "line 2 is"),
        ("0\t0\n1\t8\n2\t\x008\n", "line 3 is"),
    ],
)
def test_a_damaged_index_is_told_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "train.idx"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_index(path, 100)


def test_a_file_that_is_cut_while_open_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_source(training_set(tmp_path)).split("train")
    split.read(np.arange(4))
    monkeypatch.setattr(_recordio, "LOOK", -1.0)
    with (tmp_path / "train.rec").open("r+b") as file:
        file.truncate(64)
    with pytest.raises(UserError, match="has become shorter since it was opened"):
        split.read(np.arange(4))


def test_a_damaged_neighbour_does_not_spoil_a_record(tmp_path: Path) -> None:
    training_set(tmp_path)
    path = tmp_path / "train.rec"
    content = bytearray(path.read_bytes())
    begin = int((tmp_path / "train.idx").read_text().split()[2 * 3 + 1])
    content[begin] ^= 1
    path.write_bytes(content)
    assert Records(path).image(2) == JPEGS[1]
    with pytest.raises(UserError, match="Record 3 of"):
        Records(path).image(3)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 7, 16, 61])
def test_threads_put_each_image_in_its_place(threads: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aligned, "THREADS", threads)
    index = np.random.default_rng(count).integers(0, 200, count)
    images = read_all(lambda i: np.full((2, 3, 3), i, np.uint8), index, (2, 3, 3))
    assert images.shape == (count, 2, 3, 3)
    assert images[:, 1, 2, 0].tolist() == index.tolist()


def test_no_memory_is_taken_for_images_that_a_property_file_only_claims(tmp_path: Path) -> None:
    options = training_set(tmp_path)
    (tmp_path / "property").write_text("3,2048,2048")
    with pytest.raises(UserError, match="16 x 16 pixels, not 2048 x 2048"):
        open_source(options).split("train").read(np.zeros(1 << 20, np.int64))


def test_a_pickled_split_opens_its_files_anew(tmp_path: Path) -> None:
    split = open_source(training_set(tmp_path)).split("train")
    assert isinstance(split, Aligned)
    content = pickle.dumps(split)
    assert len(content) < 4096
    np.testing.assert_array_equal(pickle.loads(content).read(np.arange(4)), split.read(np.arange(4)))
    (tmp_path / "train.rec").unlink()
    with pytest.raises(UserError, match=r"train\.rec cannot be read"):
        pickle.loads(content)
