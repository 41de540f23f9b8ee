"""The documentation does what it says: its code is run, its links lead somewhere, its tables agree with the code."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kd2edge import drawers, shelves
from kd2edge.data import open_source
from kd2edge.errors import Exit

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / drawer / "README.md" for drawer in ("recipes", "export"))])
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(page: str) -> Iterator[tuple[str, str, str]]:
    """(language, file to write it to or "", text) of each code fence, in order."""
    yield from FENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def run(language: str, text: str, folder: Path) -> None:
    shell = f'set -e\nkd2edge() {{ "{sys.executable}" -m kd2edge "$@"; }}\n{text}'
    command = [sys.executable, "-W", "error", "-c", text] if language == "python" else ["bash", "-c", shell]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


@pytest.mark.kd
def test_the_page_on_methods_runs_from_top_to_bottom(tmp_path: Path) -> None:
    found = list(fences("add-a-method.md"))
    assert [(language, file) for language, file, _ in found] == [("python", "logit_mse.py"), ("python", ""), ("sh", "")]
    for language, file, text in found:
        if file:
            (tmp_path / file).write_text(text, encoding="utf-8")
        else:
            run(language, text, tmp_path)
    recipe = drawers.read_recipe(tmp_path / "mine.yaml")
    assert (recipe.method.name, recipe.method.options) == ("./logit_mse.py", {"alpha": 0.5})


@pytest.mark.kd
def test_the_student_of_the_docs_is_a_net(tmp_path: Path) -> None:
    import torch

    from kd2edge.kd.net import Shape, build
    from kd2edge.schema import NetSpec

    ((_, _, text),) = fences("add-a-student.md")
    (tmp_path / "stack.py").write_text(text, encoding="utf-8")
    model = {"name": str(tmp_path / "stack.py"), "width": 48}
    net = build(NetSpec.model_validate({"model": model, "neck": "gdc", "embedding": 16}), Shape(1, (32, 32), 7))
    out = net(torch.zeros(2, 1, 32, 32))
    assert (out.fmap.shape, out.embedding.shape, out.logits.shape) == ((2, 48, 4, 4), (2, 16), (2, 7))


def test_the_data_set_of_the_docs_is_one(tmp_path: Path) -> None:
    ((_, _, text),) = fences("add-a-data-set.md")
    (tmp_path / "shapes.py").write_text(text, encoding="utf-8")
    source = open_source({"name": str(tmp_path / "shapes.py"), "size": 24})
    split, again = source.split("test"), source.split("test")
    images = split.read(np.array([5, 0, 5]))
    assert images.shape == (3, 24, 24, 1)
    assert images.dtype == np.uint8
    assert split.labels.dtype == np.int64
    assert np.bincount(split.labels).tolist() == [128, 128]
    np.testing.assert_array_equal(images, again.read(np.array([5, 0, 5])))
    square, disc = (split.read(np.flatnonzero(split.labels == label)).mean() for label in (0, 1))
    assert square > disc


def test_the_page_on_exit_codes_has_all_of_them() -> None:
    table = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "docs" / "exit-codes.md").read_text(), re.MULTILINE)
    assert table == [(str(int(code)), code.name) for code in Exit]


def test_the_index_names_every_shelf_and_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for shelf in (shelves.METHODS, shelves.MODELS, shelves.DATA, shelves.BACKENDS):
        assert f"{shelf.removeprefix('kd2edge.').replace('.', '/')}/NAME.py" in index
    assert [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and page.name not in index
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    files = re.findall(r"`(kd2edge/[\w/.]+|benchmarks/[\w/.]+)`", text)
    assert [file for file in files if not (ROOT / file).exists() and "logit_mse" not in file] == []
