"""CIFAR-10: both forms alike, splits by a fixed rule, every way in which a file can be wrong, and the true set."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from kd2edge.data import InMemory, Source, open_source
from kd2edge.data.cifar10 import CLASSES
from kd2edge.errors import Faults, UserError

REAL = os.environ.get("KD2EDGE_CIFAR10")
TRAIN, TEST = 12, 20  # images in each of the five training files, and in the test file

Pixels = npt.NDArray[np.uint8]


def drawn(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def batches() -> dict[str, tuple[Pixels, list[int]]]:
    """What the files hold: the classes in turn, so that each has six training images."""
    made = {
        f"data_batch_{i}": (drawn(TRAIN, i), [(TRAIN * (i - 1) + n) % 10 for n in range(TRAIN)]) for i in range(1, 6)
    }
    return {**made, "test_batch": (drawn(TEST, 6), [n % 10 for n in range(TEST)])}


def write_binary(folder: Path) -> Path:
    """Records as the data set's page describes them: the label, then 1,024 bytes of red, of green and of blue."""
    folder.mkdir(parents=True)
    for stem, (images, labels) in batches().items():
        records = [
            bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            for image, label in zip(images, labels, strict=True)
        ]
        (folder / f"{stem}.bin").write_bytes(b"".join(records))
    return folder


def write_png(folder: Path) -> Path:
    """One row an image, and the labels of all training files in one list."""
    folder.mkdir(parents=True)
    listed: dict[str, list[int]] = {"train_lables.json": [], "test_lables.json": []}
    for stem, (images, labels) in batches().items():
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(folder / f"{stem}.png")
        listed["test_lables.json" if stem == "test_batch" else "train_lables.json"] += labels
    for name, labels in listed.items():
        (folder / name).write_text(json.dumps(labels))
    return folder


WRITERS = {"bin": write_binary, "png": write_png}


@pytest.fixture(params=list(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return WRITERS[request.param](tmp_path / "cifar")


def opened(path: Path, **options: Any) -> Source:
    return open_source({"name": "cifar10", "path": str(path), **options})


def split(path: Path, name: str, **options: Any) -> InMemory:
    found = opened(path, **options).split(name)
    assert isinstance(found, InMemory)
    return found


def test_the_files_images_in_their_order(folder: Path) -> None:
    expected = batches()
    test = split(folder, "test")
    np.testing.assert_array_equal(test.images, expected.pop("test_batch")[0])
    assert test.labels.tolist() == [n % 10 for n in range(TEST)]
    train = split(folder, "train")
    np.testing.assert_array_equal(train.images, np.concatenate([images for images, _ in expected.values()]))
    assert train.labels.tolist() == [label for _, labels in expected.values() for label in labels]
    for found in (train, test):
        assert (found.images.dtype.name, found.labels.dtype.name) == ("uint8", "int64")
        assert found.images.flags.c_contiguous
        assert (found.groups, found.classes) == ({}, CLASSES)
    np.testing.assert_array_equal(train.read(np.array([7, 0, 7])), train.images[[7, 0, 7]])


@pytest.mark.parametrize(("form", "unpacked"), [("bin", "cifar-10-batches-bin"), ("png", "package")])
def test_an_archive_may_lie_as_it_was_unpacked(form: str, unpacked: str, tmp_path: Path) -> None:
    WRITERS[form](tmp_path / unpacked)
    assert len(split(tmp_path, "test")) == TEST


def test_holdout_takes_the_last_of_each_class(folder: Path) -> None:
    whole = split(folder, "train")
    train, val = split(folder, "train", holdout=True), split(folder, "val", holdout=True)
    assert val.labels.tolist() == list(range(10)), "a tenth of six, rounded up"
    np.testing.assert_array_equal(val.images, whole.images[50:])
    np.testing.assert_array_equal(train.images, whole.images[:50])
    assert train.labels.tolist() == whole.labels[:50].tolist()
    assert len(split(folder, "test", holdout=True)) == TEST


@pytest.mark.parametrize("holdout", [False, True])
def test_fewer_training_images_are_the_first_of_each_class(folder: Path, holdout: bool) -> None:
    few = split(folder, "train", train_images=20, holdout=holdout)
    np.testing.assert_array_equal(few.images, split(folder, "train").images[:20])
    assert np.bincount(few.labels).tolist() == [2] * 10
    assert len(split(folder, "test", train_images=20)) == TEST
    if holdout:
        assert len(split(folder, "val", train_images=20, holdout=True)) == 10


def test_more_training_images_than_there_are(folder: Path) -> None:
    assert len(split(folder, "train", train_images=60)) == 60
    with pytest.raises(UserError, match=r"7 images of each class, and there are 6(.|\n)*at most 60"):
        split(folder, "train", train_images=70)
    with pytest.raises(UserError, match="at most 50"):
        split(folder, "train", train_images=60, holdout=True)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("val", {}, "holdout: true"), ("dev", {}, "train, test"), ("dev", {"holdout": True}, "train, val, test")],
)
def test_an_unknown_split_says_what_exists(name: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        split(write_png(tmp_path / "png"), name, **options)


def test_images_become_inputs_as_the_published_teachers_want_them(folder: Path) -> None:
    p = opened(folder).preprocessing()
    assert (p.size, p.channels, p.color) == ((32, 32), 3, "RGB")
    assert (p.mean, p.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert p.decoder.startswith("pillow ")


@pytest.mark.parametrize("options", [{"train_images": 5}, {"train_images": 1001}, {"holdout": "some"}, {"pth": 1}])
def test_faulty_configs_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Faults):
        opened(tmp_path, **options)


@pytest.mark.parametrize(("form", "stem"), [("bin", "data_batch_3"), ("png", "test_batch")])
def test_a_missing_file_is_named_at_once(form: str, stem: str, tmp_path: Path) -> None:
    (WRITERS[form](tmp_path / "x") / f"{stem}.{form}").unlink()
    with pytest.raises(UserError, match=rf"{stem}\.{form} is missing"):
        opened(tmp_path / "x")


def test_nothing_there_says_what_to_take(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match=r"no CIFAR-10 in(.|\n)*cifar-10-binary\.tar\.gz"):
            opened(path)


@pytest.mark.parametrize("place", [".", "cifar-10-batches-py"])
def test_pickles_are_not_read(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    for name in ("batches.meta", "data_batch_1", "test_batch"):
        (tmp_path / place / name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(UserError, match=r"Python version(.|\n)*take the binary version"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("test_batch.bin", b"", "0 bytes are no whole records"),
        ("test_batch.bin", bytes(3073 + 3072), "6,145 bytes are no whole records of 3,073"),
        ("test_batch.bin", bytes(3073) + bytes([10]) + bytes(3072), "label number 2 is not of 0 to 9"),
        ("test_batch.png", b"", "is damaged"),
        ("test_batch.png", b"\x89PNG\r\n\x1a\n and then nothing of the kind", "is damaged"),
        ("test_batch.png", b"GIF89a", "is damaged"),
        ("test_lables.json", b"[3, 8", "is damaged"),
        ("test_lables.json", b"\xff\xfe", "is damaged"),
        ("test_lables.json", b'{"labels": [1]}', "no list of whole numbers"),
        ("test_lables.json", b"[3, true]", "no list of whole numbers"),
        ("test_lables.json", b"[3, 1.5]", "no list of whole numbers"),
        ("test_lables.json", b"[3, 10]", "label number 2 is not of 0 to 9"),
        ("test_lables.json", b"[-1]", "label number 1 is not of 0 to 9"),
        ("test_lables.json", b"[%d]" % 10**30, "label number 1 is not of 0 to 9"),
        ("test_lables.json", b"[]", "0 labels, but there are 20 test images"),
        ("test_lables.json", b"[1, 2, 3]", "3 labels, but there are 20 test images"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(file: str, content: bytes, words: str, tmp_path: Path) -> None:
    folder = WRITERS["bin" if file.endswith(".bin") else "png"](tmp_path / "x")
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        split(folder, "test")
    assert file in caught.value.message
    assert len(split(folder, "train")) == 5 * TRAIN, "the other files are not looked at"


def test_a_truncated_png_is_named(tmp_path: Path) -> None:
    folder = write_png(tmp_path / "x")
    whole = (folder / "data_batch_2.png").read_bytes()
    (folder / "data_batch_2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"data_batch_2\.png is damaged"):
        split(folder, "train")


@pytest.mark.parametrize(("size", "mode"), [((1000, 4), "RGB"), ((1024, 4), "RGBA"), ((1024, 4), "L")])
def test_a_png_of_another_shape_is_named(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    folder = write_png(tmp_path / "x")
    Image.new(mode, size).save(folder / "test_batch.png")
    with pytest.raises(UserError, match=rf"test_batch\.png .*{size[0]} pixels wide and {mode}, not 1024 and RGB"):
        split(folder, "test")


def test_a_decompression_bomb_is_refused_and_pillows_guard_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024 * TEST // 3)
    with pytest.raises(UserError, match=r"test_batch\.png is damaged or not of CIFAR-10: .*bomb"):
        split(write_png(tmp_path / "x"), "test")
    assert Image.MAX_IMAGE_PIXELS == 1024 * TEST // 3


@pytest.mark.skipif(REAL is None, reason="KD2EDGE_CIFAR10 names no folder with the true CIFAR-10")
def test_the_true_set() -> None:
    assert REAL is not None
    test = split(Path(REAL), "test")
    assert test.images.shape == (10_000, 32, 32, 3)
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    train = split(Path(REAL), "train")
    assert train.images.shape == (50_000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    # the channel means of the training set that everybody normalises by
    means = train.images.mean((0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    val = split(Path(REAL), "val", holdout=True)
    assert np.bincount(val.labels).tolist() == [500] * 10
    few = split(Path(REAL), "train", holdout=True, train_images=1_000)
    assert np.bincount(few.labels).tolist() == [100] * 10
