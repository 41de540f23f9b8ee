"""What pip installs: one package, the drawers inside it, the data set with its licence, and nothing beside them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kd2edge import drawers

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_package_and_its_metadata(contents: set[str]) -> None:
    top = {name.partition("/")[0] for name in contents}
    assert len(top) == 2
    assert top > {"kd2edge"}
    assert next(iter(top - {"kd2edge"})).endswith(".dist-info")
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_every_source_file_and_what_goes_with_it(contents: set[str]) -> None:
    package = ROOT / "kd2edge"
    sources = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    beside = {"py.typed", "report/page.html", "data/_omniglot/omniglot.npz", "data/_omniglot/LICENSE"}
    beside |= {"report/page.css", "report/parts/verdict.html", "report/history.html", "report/pareto.html"}
    beside |= {"kd/teachers/omniglot.safetensors", "kd/teachers/omniglot.ledger.jsonl"}
    assert contents >= sources | {f"kd2edge/{name}" for name in beside}
    assert not [name for name in contents if "__pycache__" in name]


def test_the_drawers_are_inside(contents: set[str]) -> None:
    for drawer, folder in drawers.FOLDERS.items():
        inside = f"kd2edge/_drawers/{folder.split('/')[-1]}"
        wanted = {f"{inside}/{name}.yaml" for name in drawers.names(drawer)}
        assert {name for name in contents if name.startswith(f"{inside}/") and name.endswith(".yaml")} == wanted


def test_an_installed_wheel_lists_its_recipes_anywhere(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=empty)
    where = run("-c", "import kd2edge; print(kd2edge.__file__)", cwd=empty, PYTHONPATH=str(site))
    assert where.strip() == str(site / "kd2edge" / "__init__.py")
    listed = run("-m", "kd2edge", "list", "recipes", cwd=empty, PYTHONPATH=str(site))
    assert all(name in listed for name in drawers.names("recipes"))
