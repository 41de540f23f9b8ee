"""Insightface's files in the forms met in the wild, hostile and damaged ones, and the real ones where at hand."""

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kd2edge.data import Images, open_source
from kd2edge.data._subgroups import read_subgroups
from kd2edge.data._unpickle import unpickle
from kd2edge.data.insightface_bin import Faces, read_pairs
from kd2edge.errors import UserError

SIDE = 16
PEOPLE = ["Ada/1.jpg", "Ada/2.jpg", "Bo/1.jpg", "Cy/1.jpg"]
LISTED = [0, 1, 2, 3, 1, 0, 3, 0]  # pairs: Ada-Ada, Bo-Cy, Ada-Ada, Cy-Ada
SAME = [True, False, True, False]


def jpeg(seed: int, side: int = SIDE) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def pixels(encoded: bytes) -> Images:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


JPEGS = [jpeg(seed) for seed in range(4)]
IMAGES = [JPEGS[i] for i in LISTED]


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """Protocol 2 as Python 2 writes it: strings by BINSTRING and SHORT_BINSTRING, both lists in one batch each."""
    strings = (b"U" + bytes([len(i)]) + i if len(i) < 256 else b"T" + struct.pack("<I", len(i)) + i for i in images)
    put = (string + b"r" + struct.pack("<I", number + 300) for number, string in enumerate(strings))
    bools = b"".join(b"\x88" if value else b"\x89" for value in same)
    return b"\x80\x02]q\x01(" + b"".join(put) + b"e]q\x02(" + bools + b"e\x86q\x03."


def protocol(number: int) -> Callable[[list[bytes], list[bool]], bytes]:
    return lambda images, same: pickle.dumps((images, same), protocol=number)


def arrays(images: list[bytes], same: list[bool]) -> bytes:
    return pickle.dumps(([np.frombuffer(i, np.uint8) for i in images], np.array(same)), protocol=4)


def decoded(images: list[bytes], same: list[bool]) -> bytes:
    return pickle.dumps(([pixels(i) for i in images], [np.bool_(value) for value in same]), protocol=5)


FORMS: dict[str, Callable[[list[bytes], list[bool]], bytes]] = {
    "python 2": python2,
    "arrays": arrays,
    "decoded": decoded,
}
FORMS |= {f"protocol {number}": protocol(number) for number in range(6)}


def packed(folder: Path, content: bytes, names: list[str] | None = None) -> dict[str, Any]:
    """The data section for a `.bin` of that content beside its names."""
    (folder / "pairs.bin").write_bytes(content)
    listed = [PEOPLE[i] for i in LISTED] if names is None else names
    (folder / "names.txt").write_text("\n".join(listed))
    path, names_path = str(folder / "pairs.bin"), str(folder / "names.txt")
    return {"name": "insightface_bin", "path": path, "names": names_path, "size": SIDE}


def faces(options: dict[str, Any]) -> Faces:
    split = open_source(options).split("test")
    assert isinstance(split, Faces)
    return split


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_pairs_gives_the_same_distinct_faces(form: str, tmp_path: Path) -> None:
    split = faces(packed(tmp_path, FORMS[form](IMAGES, SAME)))
    assert split.classes == ["Ada", "Bo", "Cy"]
    assert split.labels.tolist() == [0, 0, 1, 2]
    assert split.protocol.pairs.tolist() == [[0, 1], [2, 3], [1, 0], [3, 0]]
    assert split.protocol.same.tolist() == SAME
    np.testing.assert_array_equal(split.read(np.array([3, 0])), [pixels(JPEGS[3]), pixels(JPEGS[0])])


def test_images_become_inputs_by_the_stated_constants(tmp_path: Path) -> None:
    options = packed(tmp_path, protocol(2)(IMAGES, SAME))
    p = open_source({**options, "std": 128 / 255}).preprocessing()
    assert (p.size, p.color, p.mean, p.std) == ((SIDE, SIDE), "RGB", (0.5,) * 3, (128 / 255,) * 3)


@pytest.mark.parametrize("form", FORMS)
def test_without_names_the_pairs_are_judged_and_nobody_is_made_up(form: str, tmp_path: Path) -> None:
    options = packed(tmp_path, FORMS[form](IMAGES, SAME))
    assert len(read_pairs(Path(options["path"])).images) == 8
    del options["names"]
    split = faces(options)
    assert split.classes == []
    assert len(split) == len(set(split.labels.tolist())) == 4  # the same bytes are one image
    assert split.protocol.pairs.tolist() == [[0, 1], [2, 3], [1, 0], [3, 0]]
    assert split.protocol.same.tolist() == SAME
    np.testing.assert_array_equal(split.read(np.array([3])), [pixels(JPEGS[3])])


def test_how_pairs_are_judged_is_stated_with_the_data(tmp_path: Path) -> None:
    options = packed(tmp_path, protocol(4)(IMAGES, SAME))
    by_default, stated = faces(options).protocol, {"folds": 2, "mode": "insightface", "flip": True}
    assert (by_default.folds, by_default.mode, by_default.flip, by_default.subgroups) == (10, "exact", False, {})
    assert {key: getattr(faces({**options, **stated}).protocol, key) for key in stated} == stated


def test_subgroups_are_columns_beside_the_pairs(tmp_path: Path) -> None:
    options = packed(tmp_path, protocol(4)(IMAGES, SAME))
    (tmp_path / "groups.csv").write_text("race,age\nAsian,old\nAfrican,old\n Asian ,young\nIndian,old\n")
    judged = faces({**options, "subgroups": str(tmp_path / "groups.csv")}).protocol
    assert judged.subgroup_names == {"race": ["African", "Asian", "Indian"], "age": ["old", "young"]}
    assert {name: column.tolist() for name, column in judged.subgroups.items()} == {
        "race": [1, 0, 1, 2],
        "age": [0, 0, 1, 0],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("race\nA\nB\nA\n", "3 lines after its first for 4 pairs"),
        ("race\nA\nB\n\nA\n", "Line 4 of .* has not one value for each of race"),
        ("race,age\nA,1\nB\nA,1\nB,1\n", "Line 3 of .* has not one value"),
        ("race,race\nA,1\nB,1\nA,1\nB,1\n", "does not name its columns, each once: race,race"),
        ("", "are empty"),
        ('"race', "0 lines after"),
    ],
)
def test_subgroups_of_another_form_are_refused_with_the_line(text: str, words: str, tmp_path: Path) -> None:
    options = packed(tmp_path, protocol(4)(IMAGES, SAME))
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        faces({**options, "subgroups": str(tmp_path / "groups.csv")})


def test_a_list_of_names_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    options = packed(tmp_path, protocol(2)(IMAGES, SAME), ["\ufeffAda/1.jpg", *[PEOPLE[i] for i in LISTED[1:]]])
    assert faces(options).classes == ["Ada", "Bo", "Cy"]


def test_subgroups_are_groups(tmp_path: Path) -> None:
    many = "name\n" + "".join(f"{number}\n" for number in range(101))
    (tmp_path / "groups.csv").write_text(many)
    with pytest.raises(UserError, match="101 values: too many for groups"):
        read_subgroups(tmp_path / "groups.csv", 101)
    (tmp_path / "groups.csv").write_bytes(b"race\n\xff\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_subgroups(tmp_path / "groups.csv", 1)
    with pytest.raises(UserError, match="cannot be read"):
        read_subgroups(tmp_path / "none.csv", 1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_names_that_contradict_the_file_are_refused(number: int, tmp_path: Path) -> None:
    listed = [PEOPLE[i] for i in LISTED]
    wrong, words = [
        (listed[:-1], "7 names for 8 images"),
        ([*listed[:2], "Ada/7.jpg", "Ada/8.jpg", *listed[4:]], "Pair 2 is marked as not genuine"),
        ([*listed[:4], "Ada/1.jpg", *listed[5:]], "Images 1 and 5 are both named 'Ada/1.jpg', but differ"),
    ][number]
    with pytest.raises(UserError, match=words):
        faces(packed(tmp_path, protocol(3)(IMAGES, SAME), wrong))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("number", range(6))
def test_a_hostile_pickle_is_refused_and_nothing_runs(number: int, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(UserError, match=r"wants to import '\w+\.mkdir', and nothing may be imported"):
        faces(packed(tmp_path, pickle.dumps(([Hostile(made)], [True]), protocol=number)))
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x8e" + struct.pack("<Q", 1 << 62), "ends within"),
        (b"r" + struct.pack("<I", 1 << 31), "stack is empty"),
        (b"\x80\x02}.", "opcode b'}'"),
        (b"N.", "no pair of a list"),
        (b"cnumpy\nload\n.", "wants to import 'numpy.load'"),
        (b"I" + b"9" * 5000 + b"\n.", "no number"),
        (b"X\x03\0\0\0abcq\0" + b"c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86R" * 90 + b".", None),
        (
            b"X\xe8\3\0\0" + b"a" * 1000 + b"q\0" + b"c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86R" * 90 + b".",
            "more bytes",
        ),
        (pickle.dumps(np.zeros(3, np.float32), protocol=2), "array of 'f4'"),
        (pickle.dumps(np.array([print], object), protocol=2), "array of 'O8'"),
        (pickle.dumps({"a": 1}, protocol=4), "opcode"),
    ],
)
def test_what_is_no_pickle_of_images_is_told_in_a_sentence(content: bytes, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "pairs.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_pairs(path)


PLAIN = st.recursive(
    st.binary(max_size=300) | st.booleans() | st.none() | st.text(max_size=20) | st.integers(-(1 << 31), (1 << 31) - 1),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
)


@given(value=PLAIN, number=st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_plain_values_come_back_as_pickle_wrote_them(
    tmp_path_factory: pytest.TempPathFactory, value: Any, number: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "value.bin"
    path.write_bytes(pickle.dumps(value, protocol=number))
    assert unpickle(path) == value


@given(
    form=st.sampled_from(sorted({*FORMS} - {"decoded"})),
    places=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_a_mutated_list_of_pairs_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, form: str, places: list[tuple[int, int]]
) -> None:
    content = bytearray(FORMS[form]([b"abc", b"\xff\xd8", b"abc", b""], [True, False]))
    for place, value in places:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "mutated.bin"
    path.write_bytes(content)
    try:
        found = read_pairs(path)
    except UserError:
        return
    assert len(found.images) == 2 * len(found.same)


def test_a_missing_file_and_split_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        open_source({"name": "insightface_bin", "path": str(tmp_path / "x.bin")})
    with pytest.raises(UserError, match="no split 'train'"):
        open_source(packed(tmp_path, protocol(2)(IMAGES, SAME))).split("train")


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    large = [jpeg(seed, 2 * SIDE) for seed in LISTED]
    with pytest.raises(UserError, match=r"Image 1 of .* cannot be decoded: it is 32 x 32 pixels, not 16 x 16"):
        faces(packed(tmp_path, protocol(2)(large, SAME))).read(np.array([0]))
    with pytest.raises(UserError, match=r"set data\.size"):
        faces(packed(tmp_path, decoded(large, SAME))).read(np.array([0]))


REAL = os.environ.get("KD2EDGE_LFW")
real = pytest.mark.skipif(REAL is None, reason="KD2EDGE_LFW names no folder with insightface files of LFW")


@real
def test_the_real_pairs() -> None:
    folder = Path(str(REAL))
    names = folder / "lfw_dev_test_names.txt"
    split = faces({"name": "insightface_bin", "path": str(folder / "lfw_dev_test.bin"), "names": str(names)})
    listed = split.protocol
    assert (len(split), len(split.classes), len(listed.pairs), int(listed.same.sum())) == (1549, 963, 1000, 500)
    counts = np.bincount(split.labels)
    assert int((counts * (counts - 1) // 2).sum()) == 983
    assert split.read(np.arange(4)).shape == (4, 112, 112, 3)
    unnamed = faces({"name": "insightface_bin", "path": str(folder / "lfw_dev_test.bin")})
    assert (len(unnamed), unnamed.classes) == (1549, [])


def test_an_array_that_is_named_many_times_is_held_once(tmp_path: Path) -> None:
    once = np.zeros(1000, np.uint8)
    path = tmp_path / "pairs.bin"
    path.write_bytes(pickle.dumps(([once] * 2000, [True] * 1000), protocol=4))
    images = read_pairs(path).images
    assert len({id(image) for image in images}) == 1
