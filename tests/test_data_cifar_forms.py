"""CIFAR-100, and both sets in the Python and .npz forms: the bytes that Python 2 wrote, labels, damage."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib.format import write_array_header_1_0

from kd2edge.data import InMemory, _npz, open_source
from kd2edge.data.cifar100 import COARSE, FINE
from kd2edge.errors import Faults, UserError
from tests import test_data_cifar10 as ten

Pixels = npt.NDArray[np.uint8]
# The superclass of each class, as the labels of the official files pair them.
# fmt: off
OFFICIAL = [
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
]
# fmt: on
HUNDRED = {"train": (ten.drawn(300, 1), [n % 100 for n in range(300)]), "test": (ten.drawn(40, 2), list(range(40)))}


def short(text: bytes) -> bytes:
    return b"U%c%s" % (len(text), text)


def listed(labels: list[int]) -> bytes:
    return b"](" + b"".join(b"K%c" % label for label in labels) + b"e"


def python2(images: Pixels, columns: dict[str, list[int]]) -> bytes:
    """A batch as cPickle of Python 2 writes it, protocol 2: a dict by name, an array by `_reconstruct`."""
    planes = images.transpose(0, 3, 1, 2).tobytes()
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(K\x01M%sM%s\x86" % (struct.pack("<H", len(images)), struct.pack("<H", 3072))
    head = b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85U\x01b\x87R"
    array = head + shape + kind + b"\x89T" + struct.pack("<I", len(planes)) + planes + b"tb"
    lists = b"".join(short(name.encode()) + listed(labels) for name, labels in columns.items())
    names = b"](" + b"".join(short(b"leptodactylus_%d.png" % n) for n in range(len(images))) + b"e"
    start = b"\x80\x02}q\x01(" + short(b"batch_label") + short(b"training batch 1 of 5")
    return b"".join([start, lists, short(b"data"), array, short(b"filenames"), names, b"u."])


def python3(protocol: int) -> Callable[[Pixels, dict[str, list[int]]], bytes]:
    """The same dict as Python 3 writes it, which others have re-made the files with."""

    def write(images: Pixels, columns: dict[str, list[int]]) -> bytes:
        data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
        return pickle.dumps({**columns, "data": data}, protocol)

    return write


PICKLERS: dict[str, Callable[[Pixels, dict[str, list[int]]], bytes]] = {"python 2": python2}
PICKLERS |= {f"python 3, {number}": python3(number) for number in range(6)}


def columns_of(fine: list[int]) -> dict[str, list[int]]:
    return {"fine_labels": fine, "coarse_labels": [OFFICIAL[label] for label in fine]}


def write_pickles(folder: Path, pickler: str = "python 2") -> Path:
    folder.mkdir(parents=True)
    for name, (images, fine) in HUNDRED.items():
        (folder / name).write_bytes(PICKLERS[pickler](images, columns_of(fine)))
    return folder


def write_binary(folder: Path) -> Path:
    """Records of the coarse label, the fine one, and three planes."""
    folder.mkdir(parents=True)
    for name, (images, fine) in HUNDRED.items():
        planes = images.transpose(0, 3, 1, 2)
        records = [bytes([OFFICIAL[label], label]) + image.tobytes() for image, label in zip(planes, fine, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder


def write_npz(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, (images, fine) in HUNDRED.items():
        np.savez(folder / f"{name}.npz", images=images, labels=np.array(fine)[:, None])
    return folder


def write_one_npz(folder: Path) -> Path:
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {f"x_{name}": images for name, (images, _) in HUNDRED.items()}
    arrays |= {f"y_{name}": np.array(fine) for name, (_, fine) in HUNDRED.items()}
    np.savez_compressed(folder / "cifar100.npz", **arrays)
    return folder


WRITERS = {"pickles": write_pickles, "binary": write_binary, "npz": write_npz, "one npz": write_one_npz}


def split(path: Path, part: str, name: str = "cifar100", **options: Any) -> InMemory:
    found = open_source({"name": name, "path": str(path), **options}).split(part)
    assert isinstance(found, InMemory)
    return found


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_holds_the_same_hundred_classes(form: str, tmp_path: Path) -> None:
    folder = WRITERS[form](tmp_path / "cifar")
    for part, (images, fine) in HUNDRED.items():
        found = split(folder, part)
        np.testing.assert_array_equal(found.images, images)
        assert (found.images.dtype.name, found.labels.dtype.name) == ("uint8", "int64")
        assert found.images.flags.c_contiguous
        assert (found.labels.tolist(), found.classes) == (fine, FINE)
        assert found.groups["coarse"].tolist() == [OFFICIAL[label] for label in fine]
        coarse = split(folder, part, labels="coarse")
        assert (coarse.labels.tolist(), coarse.classes) == ([OFFICIAL[label] for label in fine], COARSE)
        assert coarse.fingerprint() != found.fingerprint() == split(write_binary(tmp_path / part), part).fingerprint()


@pytest.mark.parametrize("pickler", PICKLERS)
def test_whoever_pickled_it(pickler: str, tmp_path: Path) -> None:
    write_pickles(tmp_path / "cifar-100-python", pickler)
    np.testing.assert_array_equal(split(tmp_path, "test").images, HUNDRED["test"][0])
    assert split(tmp_path, "train").labels.tolist() == HUNDRED["train"][1]


def test_the_bytes_above_are_what_python_2_wrote(tmp_path: Path) -> None:
    """`pickle` itself, told that strings are bytes, takes them for the dict that the data set's page describes."""
    images, fine = HUNDRED["test"]
    found = pickle.loads(python2(images, columns_of(fine)), encoding="bytes")
    assert {*found} == {b"batch_label", b"fine_labels", b"coarse_labels", b"data", b"filenames"}
    np.testing.assert_array_equal(found[b"data"], images.transpose(0, 3, 1, 2).reshape(len(images), 3072))
    assert (found[b"fine_labels"], found[b"batch_label"]) == (fine, b"training batch 1 of 5")


def test_names_are_the_official_ones() -> None:
    assert (len(FINE), len(COARSE)) == (100, 20)
    assert (FINE[0], FINE[1], FINE[99], FINE[52], FINE[83]) == (
        "apple",
        "aquarium_fish",
        "worm",
        "oak_tree",
        "sweet_pepper",
    )
    assert [COARSE[OFFICIAL[FINE.index(name)]] for name in ("whale", "bus", "rocket", "worm", "bear")] == [
        "aquatic_mammals", "vehicles_1", "vehicles_2", "non-insect_invertebrates", "large_carnivores",
    ]  # fmt: skip


def test_ten_classes_are_read_from_pickles_and_arrays_too(tmp_path: Path) -> None:
    batches = ten.batches()
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for stem, (images, labels) in batches.items():
        (folder / stem).write_bytes(python2(images, {"labels": labels}))
    test, parts = batches.pop("test_batch"), list(batches.values())
    x, y = np.concatenate([images for images, _ in parts]), [label for _, labels in parts for label in labels]
    arrays: dict[str, Any] = {"train_images": x, "train_labels": np.array(y, np.uint8)}
    np.savez(tmp_path / "ten.npz", **arrays, test_images=test[0], test_labels=test[1])
    expected = ten.split(ten.write_binary(tmp_path / "bin"), "train", holdout=True, train_images=20)
    for path in (tmp_path, tmp_path / "ten.npz"):
        found = ten.split(path, "train", holdout=True, train_images=20)
        assert found.fingerprint() == expected.fingerprint()
        np.testing.assert_array_equal(ten.split(path, "test").images, test[0])


def test_holdout_and_fewer_images_follow_the_hundred_classes(tmp_path: Path) -> None:
    folder = write_binary(tmp_path / "x")
    for labels in ("fine", "coarse"):
        val = split(folder, "val", holdout=True, labels=labels)
        np.testing.assert_array_equal(val.images, HUNDRED["train"][0][200:])
        few = split(folder, "train", train_images=100, labels=labels)
        np.testing.assert_array_equal(few.images, HUNDRED["train"][0][:100])
    assert few.groups["coarse"].tolist() == few.labels.tolist() == OFFICIAL
    for options in ({"train_images": 50}, {"labels": "medium"}):
        with pytest.raises(Faults):
            split(folder, "train", **options)


def test_images_become_inputs_by_the_constants_of_the_literature(tmp_path: Path) -> None:
    p = open_source({"name": "cifar100", "path": str(write_npz(tmp_path / "x"))}).preprocessing()
    assert (p.size, p.mean, p.std) == ((32, 32), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def test_archives_are_not_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"\x1f\x8b")
    for path in (tmp_path, tmp_path / "cifar-100-python.tar.gz"):
        with pytest.raises(UserError, match=r"is an archive(.|\n)*tar -xzf .*cifar-100-python\.tar\.gz -C"):
            split(path, "test")
    (tmp_path / "test").write_bytes(b"no archive")
    for path in (tmp_path / "gone", tmp_path / "test", tmp_path / "gone.tar.gz"):
        with pytest.raises(UserError, match=r"no CIFAR-100 in(.|\n)*cifar-100-binary\.tar\.gz"):
            split(path, "test")
    write_pickles(tmp_path / "x")
    (tmp_path / "x" / "test").unlink()
    with pytest.raises(UserError, match=r"Of the Python version of CIFAR-100 in .* the file test is missing"):
        split(tmp_path / "x", "train")


PAIRED = columns_of(HUNDRED["test"][1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps([1, 2], 2), "holds no dict"),
        (pickle.dumps({"data": 1}, 2), "no uint8 array of rows of 3,072"),
        (pickle.dumps({"data": np.zeros((2, 3071), np.uint8)}, 2), "no uint8 array"),
        (pickle.dumps({"data": np.zeros((40, 3072), np.uint8)}, 2), "'coarse_labels' are no list"),
        (python2(HUNDRED["test"][0], {**PAIRED, "fine_labels": [1, 2]}), "'fine_labels' are 2 for 40 images"),
        (python3(4)(HUNDRED["test"][0], {**PAIRED, "fine_labels": [100] * 40}), "label number 1 is not of 0 to 99"),
        (python3(4)(HUNDRED["test"][0], {**PAIRED, "fine_labels": [10**12] * 40}), "label number 1 is not of 0 to 99"),
        (python3(4)(HUNDRED["test"][0], {**PAIRED, "coarse_labels": [0] * 40}), "apple and aquatic_mammals"),
        (b"cos\nsystem\n(S'touch ran'\ntR.", "wants to import 'os.system'"),
        (b"}K\x01K\x02s.", "has no name"),
        (b"}U\x01a(e.", "something else than a list grows"),
        (b"](K\x01u.", "something else than a dict is filled"),
        (b"}(U\x01au.", "something else than a dict is filled"),
    ],
)  # fmt: skip
def test_a_spoiled_pickle_is_one_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    folder = write_pickles(tmp_path / "x")
    (folder / "test").write_bytes(content)
    with pytest.raises(UserError, match=words):
        split(folder, "test")
    assert len(split(folder, "train")) == 300


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": np.zeros(3)}, "none of x_test and y_test; test_images and test_labels; images and labels"),
        ({"images": np.zeros((2, 32, 32, 3), np.float32), "labels": [1, 2]}, "images is of float32"),
        ({"images": np.zeros((2, 3, 32, 32), np.uint8), "labels": [1, 2]}, r"not of uint8 \[N, 32, 32, 3\]"),
        ({"images": np.zeros((2, 32, 32, 3), np.int64), "labels": [1, 2]}, "holds images of int64"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [1.0, 2.0]}, "labels is of float64"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [1]}, "labels are 1 for 2 images"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [1, -1]}, "label number 2 is not of 0 to 99"),
        ({"images": np.array([None]), "labels": [1]}, "images is of object"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8), "labels": np.zeros(0, int)}, r"images of uint8 \[0, 32"),
    ],
)
def test_arrays_of_another_form_are_told(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write_npz(tmp_path / "x")
    np.savez(folder / "test.npz", **arrays)
    with pytest.raises(UserError, match=words):
        split(folder, "test")


def test_a_small_npz_takes_no_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header claims a terabyte, or its content unpacks to more than any set has."""
    folder = write_npz(tmp_path / "x")
    header = io.BytesIO()
    write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 28, 32, 32, 3)})
    for packing, words in (
        (zipfile.ZIP_STORED, r"images claims 824,633,720,832 bytes"),
        (zipfile.ZIP_LZMA, "in a way"),
    ):
        with zipfile.ZipFile(folder / "test.npz", "w", packing) as file:
            file.writestr("images.npy", header.getvalue())
            file.writestr("labels.npy", header.getvalue())
        with pytest.raises(UserError, match=words):
            split(folder, "test")
    monkeypatch.setattr(_npz, "MOST", 1 << 20)
    np.savez_compressed(folder / "test.npz", images=np.zeros((1000, 32, 32, 3), np.uint8), labels=[1])
    with pytest.raises(UserError, match="images claims 3,072,000 bytes"):
        split(folder, "test")
