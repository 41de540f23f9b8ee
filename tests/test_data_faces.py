"""One data set of insightface's training file and pairs: who is held out is in neither of the two others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.data import open_source
from kd2edge.data._aligned import Aligned
from kd2edge.data.faces import EVERY, _part
from kd2edge.errors import UserError
from tests.test_data_insightface import IMAGES, PEOPLE, SAME, SIDE, packed, protocol
from tests.test_data_insightface_rec import LABELS, training_set


def section(folder: Path, **options: Any) -> dict[str, Any]:
    training_set(folder)
    pairs = packed(folder, protocol(2)(IMAGES, SAME))
    return {"name": "faces", "train": str(folder), "test": pairs["path"], "names": pairs["names"], **options}


def test_training_is_of_the_one_file_and_judging_of_the_other(tmp_path: Path) -> None:
    source = open_source(section(tmp_path, std=0.25))
    assert source.split("train").labels.tolist() == LABELS
    test = source.split("test")
    assert (len(test), len(test.classes)) == (len(PEOPLE), 3)
    assert source.preprocessing().std == (0.25,) * 3
    assert source.preprocessing().size == (SIDE, SIDE)


def test_the_held_out_are_strangers_to_training(tmp_path: Path) -> None:
    source = open_source(section(tmp_path, holdout=True))
    train, val = source.split("train"), source.split("val")
    assert val.classes == ["0"]  # the first of those with two images or more
    assert (val.labels.tolist(), train.labels.tolist()) == ([0, 0], [0, 1])
    everyone = open_source(section(tmp_path)).split("train")
    np.testing.assert_array_equal(val.read(np.array([1])), everyone.read(np.array([1])))
    np.testing.assert_array_equal(train.read(np.array([1])), everyone.read(np.array([3])))
    assert len({split.fingerprint() for split in (train, val, everyone)}) == 3


def test_every_eighth_of_those_seen_twice_is_held_out() -> None:
    labels = np.repeat(np.arange(40), np.where(np.arange(40) % 2, 3, 1))
    blank = np.zeros((1, 1, 3), np.uint8)
    everyone = Aligned(lambda i: blank, labels, [str(i) for i in range(40)], (1, 1), "mark")
    assert _part(everyone, True).classes == [str(person) for person in range(1, 40, 2)][::EVERY]
    assert len(_part(everyone, True)) + len(_part(everyone, False)) == len(labels)


def test_a_split_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    source = open_source({"name": "faces", "train": section(tmp_path)["train"]})
    with pytest.raises(UserError, match=r"set data\.test"):
        source.split("test")
    with pytest.raises(UserError, match=r"set data\.holdout=true"):
        source.split("val")
