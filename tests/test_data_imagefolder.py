"""Image folders: layouts, the set-aside tenth, and every way in which a folder can be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd2edge.artifact import Artifact, Manifest
from kd2edge.data import Split, decoder_name, open_source
from kd2edge.errors import Faults, UserError
from kd2edge.verbs.images import data_for


def populate(folder: Path, classes: dict[str, int], side: int = 12) -> None:
    """`count` images per class, each of one grey level that names it."""
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (side, side), 50 * number + i % 50).save(folder / name / f"{i:03d}.png")


def split(path: Path, name: str, **options: Any) -> Split:
    return open_source({"name": "imagefolder", "path": path, "size": 8, "color": "L", **options}).split(name)


def levels(found: Split) -> list[int]:
    return list(found.read(np.arange(len(found)))[:, 0, 0, 0])


def test_three_folders(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("val", 2), ("test", 1)):
        populate(tmp_path / name, {"dog": count, "cat": count})
    train = split(tmp_path, "train")
    assert train.classes == ["cat", "dog"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.labels.dtype == np.int64
    assert levels(train) == [50, 51, 52, 0, 1, 2], "dog was drawn first, cat sorts first"
    assert (len(split(tmp_path, "val")), len(split(tmp_path, "test"))) == (4, 2)
    assert train.groups == {}


def test_reads_any_order_and_any_number(tmp_path: Path) -> None:
    populate(tmp_path / "train", {"a": 20})
    train = split(tmp_path, "train", val_fraction=0)
    assert train.read(np.array([7, 0, 7])).shape == (3, 8, 8, 1)
    assert train.read(np.array([7, 0, 7]))[:, 0, 0, 0].tolist() == [7, 0, 7]
    assert train.read(np.array([], np.int64)).shape == (0, 8, 8, 1)


def test_a_tenth_is_set_aside_and_stays_put(tmp_path: Path) -> None:
    populate(tmp_path / "train", {"a": 200, "b": 200}, side=1)
    options = {"size": 1}

    def files(name: str) -> set[Path]:
        return set(split(tmp_path, name, **options).files)  # type: ignore[attr-defined]

    train, val = files("train"), files("val")
    assert not train & val
    assert len(train | val) == 400
    assert 20 <= len(val) <= 60
    for i in range(200, 220):
        Image.new("L", (1, 1)).save(tmp_path / "train" / "a" / f"{i}.png")
    assert val <= files("val")
    assert train <= files("train")


def test_no_fraction_no_val(tmp_path: Path) -> None:
    populate(tmp_path / "train", {"a": 5})
    assert len(split(tmp_path, "train", val_fraction=0)) == 5
    with pytest.raises(UserError, match="folders there: train"):
        split(tmp_path, "val", val_fraction=0)


def test_class_folders_directly_under_path_are_a_test_set(tmp_path: Path) -> None:
    populate(tmp_path, {"a": 2, "b": 1})
    assert split(tmp_path, "test").labels.tolist() == split(tmp_path, "all").labels.tolist() == [0, 0, 1]
    with pytest.raises(UserError, match="'test' only"):
        split(tmp_path, "train")


def test_absent_test_folder_names_those_there(tmp_path: Path) -> None:
    populate(tmp_path / "train", {"a": 2})
    populate(tmp_path / "val", {"a": 2})
    with pytest.raises(UserError, match="folders there: train, val"):
        split(tmp_path, "test")


def test_differing_classes_are_refused(tmp_path: Path) -> None:
    populate(tmp_path / "train", {"a": 2, "b": 2})
    populate(tmp_path / "test", {"a": 2, "c": 2})
    with pytest.raises(UserError, match="2 of their class folders: b, c"):
        split(tmp_path, "test")


def test_an_empty_class_folder_is_a_class(tmp_path: Path) -> None:
    populate(tmp_path / "train", {"a": 2, "b": 2})
    populate(tmp_path / "test", {"a": 0, "b": 2})
    assert split(tmp_path, "test").labels.tolist() == [1, 1]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    populate(tmp_path, {"a": 2, ".cache": 2})
    for stray in ("a/notes.txt", "a/._000.png", "readme.md"):
        (tmp_path / stray).write_text("not an image")
    found = split(tmp_path, "test")
    assert (len(found), found.classes) == (2, ["a"])


def test_corrupt_file_is_named(tmp_path: Path) -> None:
    populate(tmp_path, {"a": 3})
    (tmp_path / "a" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing of the kind")
    with pytest.raises(UserError, match=r"001\.png cannot be decoded"):
        levels(split(tmp_path, "test"))


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image folder"):
        split(tmp_path / "gone", "train")
    with pytest.raises(UserError, match="no images"):
        split(tmp_path, "test")


def test_imagenet_constants_and_sizes(tmp_path: Path) -> None:
    options = {"name": "imagefolder", "path": str(tmp_path)}
    p = open_source(options).preprocessing()
    assert (p.size, p.channels, p.mean) == ((224, 224), 3, (0.485, 0.456, 0.406))
    p = open_source(options | {"size": [96, 64], "mean": [0, 0, 0], "std": [1, 1, 1]}).preprocessing()
    assert (p.size, p.mean, p.std) == ((96, 64), (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("options", [{"mean": [0.5]}, {"size": 0}, {"size": [8]}, {"color": "BGR"}, {"pth": 1}])
def test_faulty_configs_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(Faults):
        split(tmp_path, "test", **({"color": "RGB"} | options))


def open_set(path: Path, name: str, **options: Any) -> Split:
    return split(path, name, **{"open_set": True, "val_fraction": 0.2, "size": 1, **options})


def people(path: Path, count: int) -> None:
    populate(path, {f"person-{number:03d}": 2 for number in range(count)}, side=1)


def test_an_open_set_divides_people_not_images(tmp_path: Path) -> None:
    people(tmp_path, 100)
    parts = {name: open_set(tmp_path, name) for name in ("train", "val", "test")}
    names = {name: set(part.classes) for name, part in parts.items()}
    assert len(set.union(*names.values())) == sum(len(one) for one in names.values()) == 100
    assert 8 <= len(names["val"]) <= 32
    assert 8 <= len(names["test"]) <= 32
    for part in parts.values():
        assert part.labels.tolist() == [label for label in range(len(part.classes)) for _ in range(2)]
    assert len(open_set(tmp_path, "all")) == 200


def test_people_of_an_open_set_stay_put_as_others_come(tmp_path: Path) -> None:
    people(tmp_path, 40)
    before = {name: set(open_set(tmp_path, name).classes) for name in ("train", "val", "test")}
    populate(tmp_path, {f"new-{number}": 1 for number in range(20)}, side=1)
    for name, classes in before.items():
        assert classes <= set(open_set(tmp_path, name).classes)


def test_an_open_set_takes_the_folders_that_are_there(tmp_path: Path) -> None:
    people(tmp_path / "train", 40)
    populate(tmp_path / "test", {"stranger": 3, "other": 1}, side=1)
    train, val = set(open_set(tmp_path, "train").classes), set(open_set(tmp_path, "val").classes)
    assert train | val == set(open_set(tmp_path, "train", val_fraction=0).classes)
    assert train
    assert val
    assert not train & val
    test = open_set(tmp_path, "test")
    assert (test.classes, test.labels.tolist()) == (["other", "stranger"], [0, 1, 1, 1])
    with pytest.raises(UserError, match="class folders: other, person-000"):
        split(tmp_path, "test", size=1)
    populate(tmp_path / "test", {"person-001": 1}, side=1)
    with pytest.raises(UserError, match="have 1 class folders in common: person-001"):
        open_set(tmp_path, "test")


def test_an_open_set_that_leaves_a_split_without_people_says_so(tmp_path: Path) -> None:
    people(tmp_path, 2)
    with pytest.raises(UserError, match=r"None of the 2 class folders of .* falls to 'val' by val_fraction = 0\.001"):
        open_set(tmp_path, "val", val_fraction=0.001)
    assert len(open_set(tmp_path, "train", val_fraction=0.001)) == 4
    with pytest.raises(UserError, match=r"(?s)has no split 'test'.*val_fraction"):
        open_set(tmp_path, "test", val_fraction=0)


def test_a_shorter_side_before_the_cut_goes_with_the_model(tmp_path: Path) -> None:
    """A model's own preprocessing, asked of a folder, is the preprocessing that comes out."""
    populate(tmp_path / "test", {"a": 1})
    p = open_source({"name": "imagefolder", "path": tmp_path, "size": 8, "resize": 10}).preprocessing()
    assert p.decoder == decoder_name("bilinear", 10)
    manifest = Manifest(
        file="a.onnx", sha256="0" * 64, bytes=1, kind="onnx", role="student", verb="export", preprocessing=p
    )
    data = data_for(Artifact(tmp_path / "a.onnx", manifest), tmp_path)
    assert open_source({"name": data.name, **data.options}).preprocessing() == p
    with pytest.raises(UserError, match=r"8 x 8 cannot be cut(.|\n)*data\.resize to 8"):
        split(tmp_path, "test", resize=7)
