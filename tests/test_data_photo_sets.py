"""Tiny ImageNet, FoodX-251 and Stanford Cars from small sets in their authors' form."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from kd2edge.data import Split, open_source
from kd2edge.errors import UserError
from tests.shards import SIDE, drawn, encoded

WNIDS = ["n02124075", "n01443537", "n07734744"]  # wnids.txt is in no order
SORTED = ["n01443537", "n02124075", "n07734744"]
BOXES = "0\t0\t62\t62"


def split(name: str, path: Path, part: str, **options: Any) -> Split:
    return open_source({"name": name, "path": str(path), "size": SIDE, "resize": SIDE, **options}).split(part)


def same(found: Split, numbers: list[int]) -> bool:
    return bool((found.read(np.arange(len(found))) == [drawn(number) for number in numbers]).all())


def write_tiny(root: Path) -> Path:
    for label, wnid in enumerate(SORTED):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        for number in range(4):
            (root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").write_bytes(encoded(10 * label + number))
    (root / "val" / "images").mkdir(parents=True)
    for number in range(3):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(encoded(100 + number))
    rows = [f"val_{number}.JPEG\t{wnid}\t{BOXES}\n" for number, wnid in ((0, WNIDS[0]), (2, WNIDS[2]), (1, WNIDS[1]))]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius auratus\nn00000001\tother\nn02124075\tEgyptian cat\n"
    )
    return root


def write_food(root: Path, info: bool = False) -> Path:
    """As the challenge's archive has it, or as the authors' annot.tar."""
    for part, count in (("train", 6), ("val", 3)):
        (root / (part if info else f"{part}_set")).mkdir(parents=True)
        rows = [] if info else ["img_name,label"]
        for number in range(count):
            name = f"{part}_{number:06d}.jpg"
            (root / (part if info else f"{part}_set") / name).write_bytes(encoded(number + 100 * (part == "val")))
            rows.append(f"{name},{number % 3}")
        (root / f"{part}_{'info' if info else 'labels'}.csv").write_text("\n".join(rows) + "\n")
    (root / "class_list.txt").write_text("0 macaron\n1 beignet\n2 cruller twisted\n")
    return root


def cell(names: list[str]) -> Any:
    found = np.empty((1, len(names)), object)
    found[0, :] = names
    return found


def annotations(rows: list[tuple[Any, ...]], fields: list[str]) -> Any:
    found = np.zeros((1, len(rows)), [(field, object) for field in fields])
    for place, row in enumerate(rows):
        found[0, place] = row
    return found


CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
FIELDS = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]


def write_cars(root: Path, packed: bool = True) -> Path:
    (root / "devkit").mkdir(parents=True)
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": cell(CARS)}, do_compression=packed)
    for part, name in (("train", "cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        (root / f"cars_{part}").mkdir()
        rows = []
        for number in range(6):
            (root / f"cars_{part}" / f"{number + 1:05d}.jpg").write_bytes(encoded(number + 100 * (part == "test")))
            box = (np.uint8(39), np.uint16(116), np.uint16(569), np.float64(375))
            rows.append((*box, np.uint8(1 + number % 3), f"{number + 1:05d}.jpg"))
        saved = {"other": [1, 2], "annotations": annotations(rows, FIELDS)}
        scipy.io.savemat(root / "devkit" / f"{name}.mat", saved, do_compression=packed)
    return root


def test_tiny_imagenet(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny-imagenet-200")
    train = split("tiny_imagenet", tmp_path, "train")
    assert train.classes == ["n01443537 goldfish", "n02124075 Egyptian cat", "n07734744"]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert same(train, [*range(4), *range(10, 14), *range(20, 24)])
    test = split("tiny_imagenet", tmp_path, "test")
    assert (test.classes, test.labels.tolist()) == (train.classes, [1, 2, 0])
    assert same(test, [100, 102, 101]), "in the order of the list"
    assert split("tiny_imagenet", tmp_path, "val", holdout=True).labels.tolist() == [0, 1, 2]
    assert same(split("tiny_imagenet", tmp_path, "train", holdout=True), [0, 1, 2, 10, 11, 12, 20, 21, 22])
    source = open_source({"name": "tiny_imagenet", "path": str(tmp_path)})
    assert (source.preprocessing().size, source.preprocessing().decoder[-3:]) == ((64, 64), " 64")
    assert len({train.fingerprint(), test.fingerprint(), split("tiny_imagenet", tmp_path, "train").fingerprint()}) == 2
    (tmp_path / "tiny-imagenet-200" / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_3.JPEG").write_bytes(encoded(5, 9))
    assert split("tiny_imagenet", tmp_path, "train").fingerprint() != train.fingerprint()


@pytest.mark.parametrize("info", [False, True])
def test_foodx251(info: bool, tmp_path: Path) -> None:
    root = write_food(tmp_path / "x", info)
    train, test = split("foodx251", root, "train"), split("foodx251", root, "test")
    assert train.classes == test.classes == ["macaron", "beignet", "cruller twisted"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 0, 1, 2], [0, 1, 2])
    assert same(train, [*range(6)])
    assert same(test, [100, 101, 102])
    assert split("foodx251", root, "val", holdout=True).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("packed", [False, True])
def test_stanford_cars(packed: bool, tmp_path: Path) -> None:
    root = write_cars(tmp_path / "x", packed)
    train = split("stanford_cars", root, "train")
    assert (train.classes, train.labels.tolist()) == (CARS, [0, 1, 2, 0, 1, 2])
    assert same(train, [*range(6)])
    test = root / "devkit" / "cars_test_annos_withlabels.mat"
    test.rename(root / test.name)  # as it is fetched, beside the devkit
    assert same(split("stanford_cars", root, "test"), [*range(100, 106)])
    (root / test.name).unlink()
    with pytest.raises(UserError, match=r"no cars_test_annos_withlabels\.mat"):
        split("stanford_cars", root, "test")


def test_stanford_cars_in_class_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(["b", "a"]):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.jpg").write_bytes(encoded(label + 10 * (part == "test")))
    train = split("stanford_cars", tmp_path, "train")
    assert (train.classes, train.labels.tolist(), same(train, [1, 0])) == (["a", "b"], [0, 1], True)
    assert same(split("stanford_cars", tmp_path, "test"), [11, 10])
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(UserError, match="differ in 1 of their classes: c"):
        split("stanford_cars", tmp_path, "train")


def spoil(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("file", "content", "part", "words"),
    [
        ("wnids.txt", "n02124075\nn01443537\n", "train", "differ in 1 of their classes: n07734744"),
        ("wnids.txt", "../../etc\n", "train", "names '../../etc', which is no file of the set"),
        ("wnids.txt", "n01443537\nn01443537\n", "train", "names 'n01443537' twice"),
        ("wnids.txt", b"\xff\xfe", "train", "wnids.txt cannot be read"),
        ("val/val_annotations.txt", "val_0.JPEG\n", "test", "Line 1 of .* names no image and class"),
        ("val/val_annotations.txt", "val_0.JPEG\tn00000000\t0", "test", "image 1 is of 'n00000000', which is no class"),
        ("val/val_annotations.txt", "/etc/passwd\tn01443537\t0", "test", "'/etc/passwd', which is no file"),
        ("val/val_annotations.txt", "a\tn01443537\n" * 2, "test", "names 'a' twice"),
        ("val/val_annotations.txt", "", "test", "has no images"),
    ],
)
def test_damage_in_tiny_imagenet(file: str, content: str | bytes, part: str, words: str, tmp_path: Path) -> None:
    spoil(write_tiny(tmp_path / "x") / file, content)
    with pytest.raises(UserError, match=words):
        split("tiny_imagenet", tmp_path / "x", part)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train_labels.csv", "img_name,label\na.jpg,3\n", "Line 2 of .* a label of 0 to 2"),
        ("train_labels.csv", "a.jpg,1\na.jpg,2\n", r"names 'a\.jpg' twice"),
        ("train_labels.csv", "a.jpg,1,2\n", "Line 1 of"),
        ("train_labels.csv", "a.jpg,²\n", "has no images"),
        ("train_labels.csv", "n,l\na.jpg,²\n", "Line 2 of"),
        ("train_labels.csv", "../a.jpg,1\n", "no file of the set"),
        ("train_labels.csv", 'a.jpg,"1\n' + "x" * 200_000, "cannot be read|Line 1"),
        ("class_list.txt", "0 macaron\n2 beignet\n", "Line 2 of .* is not 1 and a name"),
        ("class_list.txt", "0 a\n1 a\n", "each once"),
        ("class_list.txt", "", "each once"),
    ],
)
def test_damage_in_foodx251(file: str, content: str, words: str, tmp_path: Path) -> None:
    spoil(write_food(tmp_path / "x") / file, content)
    with pytest.raises(UserError, match=words):
        split("foodx251", tmp_path / "x", "train")


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        ([(4, "a.jpg")], ["class", "fname"], "class, 1 to 3, of its image 1"),
        ([(0, "a.jpg")], ["class", "fname"], "class, 1 to 3, of its image 1"),
        ([(1.5, "a.jpg")], ["class", "fname"], "class, 1 to 3, of its image 1"),
        ([("1", "a.jpg")], ["class", "fname"], "class, 1 to 3, of its image 1"),
        ([(1, 5)], ["class", "fname"], "of its image 1"),
        ([("a.jpg",)], ["fname"], "of its image 1"),
        ([(1, "a.jpg"), (2, "a.jpg")], ["class", "fname"], r"names 'a\.jpg' twice"),
        ([(1, "../a.jpg")], ["class", "fname"], "no file of the set"),
    ],
)
def test_damage_in_stanford_cars(rows: list[tuple[Any, ...]], fields: list[str], words: str, tmp_path: Path) -> None:
    root = write_cars(tmp_path / "x")
    path = root / "devkit" / "cars_train_annos.mat"
    scipy.io.savemat(path, {"annotations": annotations(rows, fields)})
    with pytest.raises(UserError, match=words):
        split("stanford_cars", root, "train")


@pytest.mark.parametrize("device", ["/dev/zero", "pipe"])
def test_a_list_without_an_end_is_none(device: str, tmp_path: Path) -> None:
    root = write_food(tmp_path / "x")
    path = root / "train_labels.csv"
    path.unlink()
    if device == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(device)
    with pytest.raises(UserError, match=r"train_labels\.csv is no list"):
        split("foodx251", root, "train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for name, words in (
        ("tiny_imagenet", r"no wnids\.txt(.|\n)*tiny-imagenet-200\.zip"),
        ("foodx251", r"no class_list\.txt|class_list\.txt cannot be read"),
        ("stanford_cars", r"no cars_meta\.mat"),
    ):
        with pytest.raises(UserError, match=words):
            split(name, tmp_path, "train")
        with pytest.raises(UserError, match="no folder"):
            split(name, tmp_path / "gone", "train")
    root = write_food(tmp_path / "food")
    (root / "train_set" / "train_000002.jpg").unlink()
    train = split("foodx251", root, "train")
    for act in (train.fingerprint, lambda: train.read(np.array([2]))):
        with pytest.raises(UserError, match=r"train_000002\.jpg"):
            act()


def test_photographs_become_what_was_asked(tmp_path: Path) -> None:
    """Grey, CMYK and transparent ones too, as ImageNet has them."""
    root = write_food(tmp_path / "x")
    for number, mode in enumerate(("L", "CMYK", "RGB")):
        Image.new(mode, (40, 20), 0).save(root / "train_set" / f"train_{number:06d}.jpg", "JPEG")
    Image.new("LA", (20, 40), 0).save(root / "train_set" / "train_000003.jpg", "PNG")
    assert split("foodx251", root, "train").read(np.arange(4)).shape == (4, SIDE, SIDE, 3)
