"""The page on face data: its recipe ships, its commands run and its data sections open, on tiny files of every form."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from kd2edge import drawers
from kd2edge.data import open_source
from tests.test_data_ijb import make
from tests.test_data_insightface import FORMS, jpeg
from tests.test_data_insightface_rec import framed, header
from tests.test_docs import fences, run

PAGE = "bring-your-own-faces.md"
SIDE = 112
SHORT = (("epochs: 20", "epochs: 1"), ("batch: 64", "batch: 8"), ("images: 512", "images: 16, calibrator: minmax"))


def found(language: str) -> list[tuple[str, str]]:
    return [(file, text) for one, file, text in fences(PAGE) if one == language]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page says the reader has, photos with landmarks, RecordIO, pairs with names; and suites cut short."""
    folder = tmp_path_factory.mktemp("faces")
    names = [f"{person}/{number}.jpg" for person in range(12) for number in range(3)]
    images = [jpeg(seed, SIDE) for seed in range(len(names))]
    points = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"
    (folder / "landmarks.txt").write_text("".join(f"{name} {points}\n" for name in names))
    for name, image in zip(names, images, strict=True):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / name).write_bytes(image)
    recordio(folder / "faces", images)
    (folder / "IJBC").mkdir()
    make(folder / "IJBC")
    listed = [0, 1, 3, 6, 4, 5, 9, 12] * 5
    (folder / "pairs.bin").write_bytes(FORMS["python 2"]([images[i] for i in listed], [True, False] * 10))
    (folder / "names.txt").write_text("\n".join(names[i] for i in listed))
    for name in ("faces", "lfw"):
        suite = yaml.safe_load(drawers.find("suites", name).read_text())
        suite["latency"] = {"seconds": 0.05, "warmup_ms": 5}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(suite))
    return folder


def recordio(folder: Path, images: list[bytes]) -> None:
    folder.mkdir()
    content, index = b"", ""
    for number, image in enumerate(images, 1):
        index += f"{number}\t{len(content)}\n"
        content += framed(header([float((number - 1) // 3)], number) + image)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text(index)
    (folder / "property").write_text(f"{len(images) // 3},{SIDE},{SIDE}")


@pytest.mark.kd
@pytest.mark.slow
def test_the_page_runs_from_alignment_to_a_judged_file(room: Path) -> None:
    ((_, align),) = found("python")
    run("python", align, room)
    with Image.open(room / "people" / "11" / "2.jpg") as aligned:
        assert aligned.size == (SIDE, SIDE)
    ((file, recipe),) = [(file, text) for file, text in found("yaml") if file]
    for long, short in SHORT:
        assert long in recipe
        recipe = recipe.replace(long, short)
    (room / file).write_text(recipe.replace("suite: faces", "suite: faces.yaml"))
    ship, bench = (text.strip() for _, text in found("sh"))
    run("sh", f"{ship} || test $? -eq 1 -o $? -eq 3", room)
    assert (room / "runs/mine/report.html").is_file()
    run("sh", bench.replace("--suite lfw", "--suite lfw.yaml"), room)


def sections() -> list[dict[str, Any]]:
    trees = [yaml.safe_load(text) for file, text in found("yaml") if not file]
    assert all(list(tree) == ["data"] for tree in trees)
    return [tree["data"] for tree in trees]


def test_the_data_sections_of_the_page_open(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    opened = {section["name"]: section for section in sections()}
    assert list(opened) == ["faces", "insightface_bin", "ijb"]
    faces, pairs, templates = (open_source(section) for section in opened.values())
    assert (len(faces.split("train")), len(faces.split("train").classes)) == (36, 12)
    assert faces.split("test").read(np.arange(3)).shape == (3, SIDE, SIDE, 3)
    assert faces.split("test").fingerprint() == pairs.split("test").fingerprint()
    assert templates.split("test").classes == ["4", "9", "12", "15"]
    assert templates.split("test").read(np.arange(2)).shape == (2, SIDE, SIDE, 3)


def test_the_table_of_the_page_names_readers_that_are_there() -> None:
    page = "".join(text for *_, text in fences(PAGE))
    assert {"imagefolder", "faces", "insightface_bin", "ijb"} == {*re.findall(r"data: {name: (\w+)", page)}
