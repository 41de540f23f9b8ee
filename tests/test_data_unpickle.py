"""Lists of pairs as every writer in the wild pickles them: Python 2 by hand, byte for byte, Python 3 by itself."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.data import Images
from kd2edge.data._unpickle import unpickle
from kd2edge.data.insightface_bin import read_pairs
from kd2edge.errors import UserError

EVERY_BYTE = bytes(range(256))
IMAGES = [b"\xff\xd8\xff\xe0\n'\"\\\x00", EVERY_BYTE * 2, b"", EVERY_BYTE[::-1]]
SAME = [True, False]
DTYPE = b"cnumpy\ndtype\nU\x02%sK\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def text(image: bytes) -> bytes:
    """A string of Python 2 as its repr writes it: STRING."""
    return b"S" + repr(image)[1:].encode("ascii") + b"\n"


def counted(image: bytes) -> bytes:
    """SHORT_BINSTRING, or BINSTRING where that is too short."""
    return b"U%c%s" % (len(image), image) if len(image) < 256 else b"T" + struct.pack("<I", len(image)) + image


def python2_protocol_0() -> bytes:
    images = b"".join(text(image) + b"p%d\na" % number for number, image in enumerate(IMAGES, 2))
    return b"((lp1\n" + images + b"(lp8\nI01\naI00\natp9\n."


def python2_protocol_1() -> bytes:
    images = b"".join(counted(image) + b"q%c" % number for number, image in enumerate(IMAGES, 2))
    return b"(]q\x01(" + images + b"e]q\x08(I01\nI00\netq\x09."


def python2_protocol_2() -> bytes:
    images = b"".join(counted(image) + b"q%c" % number for number, image in enumerate(IMAGES, 2))
    return b"\x80\x02]q\x01(" + images + b"e]q\x08(\x88\x89e\x86q\x09."


def python2_array(image: bytes, shape: bytes) -> bytes:
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    return head + shape + DTYPE % b"u1" + b"\x89" + counted(image) + b"tb"


def python2_arrays() -> bytes:
    """np.frombuffer of each image, and a list of np.bool_."""
    arrays = b"".join(python2_array(image, b"M" + struct.pack("<H", len(image)) + b"\x85") for image in IMAGES)
    scalars = b"".join(
        b"cnumpy.core.multiarray\nscalar\n" + DTYPE % b"b1" + b"U\x01" + bytes([same]) + b"\x86R" for same in SAME
    )
    return b"\x80\x02](" + arrays + b"e](" + scalars + b"e\x86."


def python2_windows() -> bytes:
    """There an array's sides are long integers, LONG1."""
    arrays = b"".join(python2_array(image, b"\x8a\x02" + struct.pack("<h", len(image)) + b"\x85") for image in IMAGES)
    return b"\x80\x02](" + arrays + b"e](K\x01K\x00e\x86."


def python3(wrap: Callable[[bytes], Any], same: Any, protocol: int) -> Callable[[], bytes]:
    return lambda: pickle.dumps(([wrap(image) for image in IMAGES], same), protocol)


def as_array(image: bytes) -> Images:
    return np.frombuffer(image, np.uint8)


FORMS: dict[str, Callable[[], bytes]] = {
    function.__name__: function
    for function in (python2_protocol_0, python2_protocol_1, python2_protocol_2, python2_arrays, python2_windows)
}
LISTS: dict[str, Any] = {"bools": SAME, "ints": [1, 0], "numpy bools": [np.True_, np.False_], "array": np.array(SAME)}
for _protocol in range(6):
    FORMS |= {f"bytes, {name}, {_protocol}": python3(bytes, same, _protocol) for name, same in LISTS.items()}
    FORMS[f"bytearrays, {_protocol}"] = python3(bytearray, SAME, _protocol)
    FORMS[f"arrays, {_protocol}"] = python3(as_array, SAME, _protocol)


@pytest.mark.parametrize("form", FORMS)
def test_every_writer_is_understood_to_the_byte(form: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.bin"
    path.write_bytes(FORMS[form]())
    pairs = read_pairs(path)
    assert [bytes(image) for image in pairs.images] == IMAGES
    assert pairs.same.tolist() == SAME


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_decoded_images_keep_their_shape_and_order(protocol: int, order: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    path = tmp_path / "pairs.bin"
    path.write_bytes(pickle.dumps(([np.asarray(image, order=order)] * 2, [True]), protocol))
    for found in read_pairs(path).images:
        np.testing.assert_array_equal(np.asarray(found), image)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python_2_writes_what_python_3_reads(protocol: int) -> None:
    """The bytes above are what pickle itself, told that strings are bytes, takes them for."""
    content = [python2_protocol_0, python2_protocol_1, python2_protocol_2][protocol]()
    assert pickle.loads(content, encoding="bytes") == (IMAGES, SAME)
    if protocol == 2:
        images, same = pickle.loads(python2_arrays(), encoding="bytes")
        assert [image.tobytes() for image in images] == IMAGES
        assert [bool(value) for value in same] == SAME


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"S'a\\q'\n.", "not quoted as Python 2"),
        (b"S'a\n.", "not quoted"),
        (b"\x8a\x09123456789.", "too long"),
        (b"L12x\n.", "no number"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "no utf-8"),
        (b"c_codecs\nencode\n(Vaa\nVrot13\ntR.", "'encode' is called in a way"),
        (b"c_codecs\nencode\n(V\\u0100\nVlatin1\ntR.", "letters beyond"),
        (b"cnumpy\nload\n.", "nothing may be imported"),
        (b"c__builtin__\nbytes\n(I1000000000000\ntR.", "'bytes' is called in a way"),
    ],
)
def test_what_python_would_have_taken_or_run_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        unpickle(path)
