"""ImageNet from folders and from the official tars: the same images, labels by every list in use, the cut of 224."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd2edge.data import Split, decode, decoder_name, open_source
from kd2edge.data.imagenet import TARS
from kd2edge.errors import UserError
from tests.shards import SIDE, Pixels, drawn, encoded, tar_of

WNIDS = ["n01440764", "n01443537", "n15075141"]
TRAINING = {wnid: [f"{wnid}_{number}.JPEG" for number in (10, 2, 7)] for wnid in WNIDS}
VALIDATION = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
SHOWN = [2, 0, 1, 1, 2, 0]  # what each shows
ORDER = [WNIDS[1], WNIDS[2], WNIDS[0]]  # of the devkit's numbers


def training() -> dict[str, list[tuple[str, bytes]]]:
    return {w: [(name, encoded(10 * label + n)) for n, name in enumerate(TRAINING[w])] for label, w in enumerate(WNIDS)}


def write_folders(root: Path, flat: bool = False) -> Path:
    for wnid, files in training().items():
        (root / "train" / wnid).mkdir(parents=True)
        for name, content in files:
            (root / "train" / wnid / name).write_bytes(content)
    for number, name in enumerate(VALIDATION):
        folder = root / "val" if flat else root / "val" / WNIDS[SHOWN[number]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(100 + number))
    return root


def write_tars(root: Path) -> Path:
    """A tar of a tar a class, in no order; and the validation images, in another order than their names'."""
    root.mkdir(parents=True)
    inner = [(f"{wnid}.tar", tar_of(files)) for wnid, files in reversed(training().items())]
    (root / TARS["train"]).write_bytes(tar_of(inner))
    images = [(name, encoded(100 + number)) for number, name in enumerate(VALIDATION)]
    (root / TARS["val"]).write_bytes(tar_of(images[::-1]))
    return root


def opened(path: Path, **options: Any) -> Any:
    return open_source({"name": "imagenet", "path": str(path), "size": SIDE, "resize": SIDE, **options})


def pictures(split: Split) -> dict[int, list[Pixels]]:
    """The images of each label."""
    found = split.read(np.arange(len(split)))
    return {label: list(found[split.labels == label]) for label in range(len(split.classes))}


def write_list(root: Path) -> str:
    lines = [f"{name} {WNIDS[label]}" for name, label in zip(VALIDATION, SHOWN, strict=True)]
    (root / "val.txt").write_text("\n".join(lines))
    return "val.txt"


@pytest.mark.parametrize("form", ["folders", "flat", "tars"])
def test_every_form_holds_the_same_images(form: str, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "x") if form == "tars" else write_folders(tmp_path / "x", form == "flat")
    source = opened(root, **({} if form == "folders" else {"val_labels": write_list(root)}))
    train, test = source.split("train"), source.split("test")
    for split in (train, test):
        assert (split.classes, split.labels.dtype.name, split.groups) == (WNIDS, "int64", {})
        assert len({split.fingerprint(), source.split("train").fingerprint(), source.split("test").fingerprint()}) == 2
    for label, images in pictures(train).items():
        assert sorted(map(bytes, images)) == sorted(bytes(drawn(10 * label + n)) for n in range(3))
    for label, images in pictures(test).items():
        assert list(map(bytes, images)) == [bytes(drawn(100 + n)) for n, shown in enumerate(SHOWN) if shown == label]
    np.testing.assert_array_equal(train.read(np.array([8, 0, 8]))[0], train.read(np.array([8]))[0])


@pytest.mark.parametrize("form", ["folders", "tars"])
def test_holdout_is_the_last_of_each_class(form: str, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "x") if form == "tars" else write_folders(tmp_path / "x")
    source = opened(root, holdout=True)
    train, val = source.split("train"), source.split("val")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 0, 1, 1, 2, 2], [0, 1, 2])
    whole = opened(root).split("train")
    np.testing.assert_array_equal(val.read(np.arange(3)), whole.read(np.array([2, 5, 8])))
    np.testing.assert_array_equal(train.read(np.arange(6)), whole.read(np.array([0, 1, 3, 4, 6, 7])))
    with pytest.raises(UserError, match=r"no 'val' split(.|\n)*holdout: true"):
        opened(root).split("val")


LISTS = {
    "names and identifiers": [f"{name} {WNIDS[label]}" for name, label in zip(VALIDATION, SHOWN, strict=True)][::-1],
    "Caffe's": [f"{name} {label}" for name, label in zip(VALIDATION, SHOWN, strict=True)],
    "Kaggle's": [
        "ImageId,PredictionString",
        *(f"{name[:-5]},{WNIDS[SHOWN[n]]} 1 2 30 40 {WNIDS[SHOWN[n]]} 5 6 7 8 " for n, name in enumerate(VALIDATION)),
    ],
    "identifiers": [WNIDS[label] for label in SHOWN],
    "the devkit's": [str(1 + ORDER.index(WNIDS[label])) for label in SHOWN],
}  # fmt: skip


@pytest.mark.parametrize("form", LISTS)
@pytest.mark.parametrize("tars", [False, True])
def test_validation_images_are_labelled_by_any_list_in_use(form: str, tars: bool, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "x") if tars else write_folders(tmp_path / "x", flat=True)
    (root / "labels").write_text("\n".join(LISTS[form]) + "\n\n")
    (root / "synsets").write_text("\n".join(f"{wnid} words of it" for wnid in ORDER))
    options = {"synsets": "synsets"} if form == "the devkit's" else {}
    assert opened(root, val_labels="labels", **options).split("test").labels.tolist() == SHOWN


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (LISTS["identifiers"][:5], "has 5 lines for 6 validation images"),
        ([], "has 0 lines for 6"),
        (["1"] * 6, r"numbers only(.|\n)*set data\.synsets"),
        ([*LISTS["identifiers"][:5], "cat"], "Line 6 of .* does not name a class as the others do"),
        ([*LISTS["identifiers"][:5], "7"], "Line 6 of .* does not name a class as the others do"),
        ([*LISTS["Caffe's"][:5], "2"], "Line 1 of .* does not name a class"),
        ([*LISTS["Caffe's"][:5], ""], "has 5 lines"),
        ([*LISTS["Caffe's"][:5], LISTS["Caffe's"][0]], r"does not say what ILSVRC2012_val_00000006\.JPEG shows"),
        ([f"{name} 3" for name in VALIDATION], "says '3', and there are the classes 0 to 2"),
        (["n99999999"] * 6, "image 1 is of 'n99999999', which is no class of the set"),
    ],
)
def test_a_list_of_another_form_is_told(lines: list[str], words: str, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "x", flat=True)
    (root / "labels").write_text("\n".join(lines))
    with pytest.raises(UserError, match=words):
        opened(root, val_labels="labels").split("test")


def test_the_devkits_numbers_need_their_own_list(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "x", flat=True)
    (root / "labels").write_text("\n".join(["4"] * 6))
    (root / "synsets").write_text("\n".join(ORDER))
    with pytest.raises(UserError, match=r"Line 1 of .* is 4, and .* lists 3 classes"):
        opened(root, val_labels="labels", synsets="synsets").split("test")
    with pytest.raises(UserError, match=r"no list labels them(.|\n)*set data\.val_labels"):
        opened(root).split("test")


def test_images_are_cut_as_the_field_measures(tmp_path: Path) -> None:
    """Shorter side to 256, rounded down; the centre of 224, its corner rounded to even: PIL's own calls."""
    source = open_source({"name": "imagenet", "path": str(write_folders(tmp_path / "x"))})
    p = source.preprocessing()
    assert (p.size, p.mean, p.std) == ((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert p.decoder == decoder_name("bilinear", 256) == decoder_name("bilinear") + " 256"
    pixels = np.random.default_rng(3).integers(0, 256, (333, 500, 3), dtype=np.uint8)
    for turned in (pixels, pixels.transpose(1, 0, 2).copy()):
        Image.fromarray(turned).save(tmp_path / "a.png")
        wide = turned.shape[1] > turned.shape[0]
        scaled = Image.fromarray(turned).resize((384, 256) if wide else (256, 384), Image.Resampling.BILINEAR)
        corner = (80, 16) if wide else (16, 80)
        expected = np.asarray(scaled.crop((*corner, corner[0] + 224, corner[1] + 224)))
        np.testing.assert_array_equal(decode(tmp_path / "a.png", p), expected)
    assert (
        open_source({"name": "imagenet", "path": str(tmp_path / "x"), "size": 192}).preprocessing().decoder[-4:]
        == " 219"
    )
    with pytest.raises(UserError, match=r"224 x 224 cannot be cut(.|\n)*data\.resize to 224 or more"):
        open_source({"name": "imagenet", "path": str(tmp_path / "x"), "resize": 223})


def test_a_part_of_it_will_do_and_folders_must_agree(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "x")
    (root / "val" / WNIDS[0]).rename(root / "val" / "n09999999")
    with pytest.raises(UserError, match="differ in 2 of their classes: n01440764, n09999999"):
        opened(root).split("test")
    assert opened(root).split("train").classes == WNIDS
    (tmp_path / "only").mkdir()
    (root / "val").rename(tmp_path / "only" / "val")
    assert opened(tmp_path / "only").split("test").classes == [*WNIDS[1:2], "n09999999", WNIDS[2]]
    for part, words in (("train", "no ImageNet to train on"), ("test", "no ImageNet to judge by")):
        (tmp_path / "none").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=words):
            opened(tmp_path / "none").split(part)
    with pytest.raises(UserError, match=r"no split 'dev'(.|\n)*train, test"):
        opened(root).split("dev")
    with pytest.raises(UserError, match="no folder"):
        opened(tmp_path / "gone")


def test_damage_names_the_tar(tmp_path: Path) -> None:
    root = write_tars(tmp_path / "x")
    whole = (root / TARS["train"]).read_bytes()
    inner = [(f"{wnid}.tar", tar_of(files)) for wnid, files in training().items()]
    for content, words in (
        (whole[:-10_000], r"ILSVRC2012_img_train\.tar is cut: 'n01440764.tar' claims"),
        (tar_of([*inner, inner[0]]), "holds 'n01440764.tar', which is no class's tar, or comes twice"),
        (tar_of([("cats.tar", inner[0][1])]), "holds 'cats.tar', which is no class's tar"),
        (tar_of([("n01440764.tar", inner[0][1][:1024])]), r"n01440764\.tar in .*train\.tar is cut: it ends after"),
        (tar_of([("n01440764.tar", tar_of([("a.exe", b"x")]))]), "holds 'a.exe', which is no image"),
        (tar_of([]), "has no images"),
    ):
        (root / TARS["train"]).write_bytes(content)
        with pytest.raises(UserError, match=words):
            opened(root).split("train")
    (root / TARS["val"]).write_bytes(tar_of([(VALIDATION[0], b"GIF89a")]))
    (root / "labels").write_text("n01440764")
    (root / TARS["train"]).write_bytes(whole)
    with pytest.raises(UserError, match=r"'ILSVRC2012_val_00000001\.JPEG' in .*val\.tar cannot be decoded"):
        opened(root, val_labels="labels").split("test").read(np.array([0]))
