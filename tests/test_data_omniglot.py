"""The embedded Omniglot: counts of the paper, disjoint splits, a fixed order, constants measured again."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from kd2edge.data import InMemory, open_source
from kd2edge.data.omniglot import FILE, HELD_OUT, MEAN, STD
from kd2edge.errors import Faults, UserError


@cache
def split(name: str, **options: Any) -> InMemory:
    found = open_source({"name": "omniglot", "size": 16, **options}).split(name)
    assert isinstance(found, InMemory)
    return found


def test_counts_of_the_published_set() -> None:
    train, test = split("train"), split("test")
    assert (len(train.classes), len(train)) == (964, 19_280)
    assert (len(test.classes), len(test)) == (659, 13_180)
    assert np.unique(train.groups["alphabet"]).tolist() == list(range(30))
    assert np.unique(test.groups["alphabet"]).tolist() == list(range(30, 50))
    assert not set(train.classes) & set(test.classes)


@pytest.mark.parametrize(
    ("name", "options", "classes", "count"),
    [
        ("train", {"holdout": True}, 806, 16_120),
        ("val", {"holdout": True}, 158, 3_160),
        ("test", {"holdout": True}, 659, 13_180),
        ("train", {"protocol": "writers"}, 964, 13_496),
        ("val", {"protocol": "writers"}, 964, 1_928),
        ("test", {"protocol": "writers"}, 964, 3_856),
    ],
)
def test_every_class_has_every_writer(name: str, options: dict[str, Any], classes: int, count: int) -> None:
    found = split(name, **options)
    assert (len(found.classes), len(found)) == (classes, count)
    per_class = count // classes
    np.testing.assert_array_equal(found.labels, np.arange(count) // per_class)
    assert found.labels.dtype == found.groups["writer"].dtype == found.groups["alphabet"].dtype == np.int64
    writers = found.groups["writer"].reshape(classes, per_class)
    assert (writers == writers[0]).all()
    assert (np.diff(writers[0]) == 1).all()


def test_held_out_alphabets_are_every_sixth_by_name() -> None:
    names = sorted({name.split("/")[0] for name in split("train").classes})
    assert sorted(HELD_OUT) == names[5::6]


def test_the_licence_lies_beside_the_data_and_both_are_small() -> None:
    assert "Brenden Lake" in (FILE.parent / "LICENSE").read_text()
    assert FILE.stat().st_size < 5_400_000


def test_holdout_divides_the_background_by_alphabet() -> None:
    train, val = split("train", holdout=True), split("val", holdout=True)
    assert {name.split("/")[0] for name in val.classes} == HELD_OUT
    assert sorted(train.classes + val.classes) == sorted(split("train").classes)
    assert not set(train.groups["alphabet"]) & set(val.groups["alphabet"])


def test_writers_divide_the_same_drawings() -> None:
    parts = [split(name, protocol="writers") for name in ("train", "val", "test")]
    assert [sorted(set(part.groups["writer"])) for part in parts] == [list(range(1, 15)), [15, 16], [17, 18, 19, 20]]
    whole = split("train")
    for part in parts:
        rows = part.labels * 20 + part.groups["writer"] - 1
        np.testing.assert_array_equal(part.images, whole.images[rows])


def test_images_are_box_averages_of_the_strokes() -> None:
    with np.load(FILE) as file:
        strokes = np.unpackbits(file["evaluation"][3, 7], axis=1, count=105).astype(np.float64)
    image = split("test").images[3 * 20 + 7, ..., 0]
    edges = np.linspace(0, 105, 17)
    overlap = np.clip(
        np.minimum(np.arange(1, 106), edges[1:, None]) - np.maximum(np.arange(105), edges[:-1, None]), 0, 1
    )
    weights = overlap / overlap.sum(1, keepdims=True)
    # Pillow's box takes whole pixels by their centres, so that an edge pixel is in or out: agree on average only.
    exact = 255 * weights @ strokes @ weights.T
    assert abs(image.mean() - exact.mean()) < 1.5
    assert np.corrcoef(image.ravel(), exact.ravel())[0, 1] > 0.97


def test_ink_is_white_and_the_constants_are_those_of_train_at_32() -> None:
    source = open_source({"name": "omniglot"})
    train = source.split("train")
    pixels = train.read(np.arange(len(train))) / 255
    assert pixels.shape == (19_280, 32, 32, 1)
    assert (pixels.mean(), pixels.std()) == pytest.approx((MEAN, STD), abs=1e-5)
    p = source.preprocessing()
    assert (p.size, p.channels, p.color, p.mean, p.std) == ((32, 32), 1, "L", (MEAN,), (STD,))
    assert p.decoder.endswith("/box")


def test_same_order_every_time_and_reads_in_any_order() -> None:
    again = open_source({"name": "omniglot", "size": 16}).split("test")
    first = split("test")
    np.testing.assert_array_equal(again.labels, first.labels)
    index = np.array([13_179, 5, 5, 0])
    np.testing.assert_array_equal(again.read(index), first.images[index])
    assert again.read(np.array([], np.int64)).shape == (0, 16, 16, 1)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("val", {}, "holdout: true"), ("dev", {}, "train, test"), ("dev", {"holdout": True}, "train, val, test")],
)
def test_unknown_split_says_what_exists(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        split(name, **options)


@pytest.mark.parametrize("options", [{"size": 33}, {"size": 8}, {"size": 112}, {"protocol": "people"}])
def test_faulty_configs_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Faults):
        split("train", **options)


def test_holdout_with_writers_is_refused() -> None:
    with pytest.raises(Faults, match=r"holdout: .*alphabets only"):
        split("train", holdout=True, protocol="writers")


def test_all_faults_at_once_and_unknown_names() -> None:
    with pytest.raises(Faults, match="2 faults"):
        open_source({"name": "omniglot", "size": 7, "sise": 32})
    with pytest.raises(UserError, match="did you mean 'omniglot'"):
        open_source({"name": "omniglt"})
    with pytest.raises(UserError, match="names no data set"):
        open_source({})
