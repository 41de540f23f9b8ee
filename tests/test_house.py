"""The house as promised: what lies where, what it may import, and tables that list what is there.

That layers keep to their floor is the contract of `lint-imports` (`make lint`).
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd2edge import drawers
from kd2edge.schema import Recipe, Study, Suite, Target
from tests import tables

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kd2edge"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
SCHEMAS: dict[str, type[Recipe | Target | Suite | Study]] = {
    "recipes": Recipe,
    "targets": Target,
    "suites": Suite,
    "studies": Study,
}
FOLDERS = {"kd2edge", "recipes", "export", "benchmarks", "tests", "docs"}
FILES = {"README.md", "LICENSE", "CHANGELOG.md", "DECISIONS.md", "Makefile", "pyproject.toml", "constraints.txt",
         ".gitignore", ".pre-commit-config.yaml", ".ci/run"}  # fmt: skip
WITHOUT_TORCH = """
import importlib, runpy, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "tensorrt", "tensorrt_rtx", "pycuda"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Wall())
for module in sys.argv[1:]:
    importlib.import_module(module)
sys.argv = ["kd2edge", "list", "recipes"]
runpy.run_module("kd2edge", run_name="__main__")
"""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules() -> list[str]:
    """Every module outside `kd`, which alone needs torch."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py"))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return sorted(name for name in names if not name.startswith("kd2edge.kd") and name != "kd2edge.__main__")


def test_everything_but_kd_imports_and_lists_recipes_without_torch() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *modules()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in drawers.names("recipes"))


@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_a_source_file_says_what_it_is_and_is_read_in_one_sitting(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= 300
    assert source.stem not in ("utils", "util", "helpers", "common", "misc")


def test_what_lies_at_the_top_is_what_was_promised() -> None:
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - ignored
    assert folders == FOLDERS
    assert [name for name in FILES if not (ROOT / name).is_file()] == []
    assert [path.name for path in ROOT.glob("*.py")] == []


def test_python_of_the_product_lies_in_the_package() -> None:
    stray = [path for name in ("recipes", "export", "docs") for path in (ROOT / name).rglob("*.py")]
    measured = ROOT / "benchmarks"
    kept = (measured / "peers", measured / "gpu")
    stray += [path for path in measured.rglob("*.py") if path.parent != measured and not {*kept} & {*path.parents}]
    assert [relative(path) for path in stray] == ["docs/serve_embeddings.py"]  # 60 lines for a board, run by its test


@pytest.mark.parametrize(("drawer", "name"), [(drawer, name) for drawer in SCHEMAS for name in drawers.names(drawer)])
def test_a_drawers_file_is_valid_and_names_what_exists(drawer: str, name: str) -> None:
    declared = drawers.read(drawer, name, SCHEMAS[drawer])
    assert declared.about == declared.about.strip() != ""
    if isinstance(declared, Recipe):
        assert declared.target in drawers.names("targets")
        assert declared.suite in drawers.names("suites")
    if isinstance(declared, Study):
        assert declared.recipe in drawers.names("recipes")
        assert {declared.suite, declared.search.suite if declared.search else "study"} <= {*drawers.names("suites")}
    if isinstance(declared, Target):
        assert (PACKAGE / "edge" / "backends" / f"{declared.backend}.py").is_file()


@pytest.mark.parametrize("drawer", SCHEMAS)
def test_a_drawers_readme_opens_with_what_it_is_and_lists_its_files(drawer: str) -> None:
    first = (ROOT / tables.READMES[drawer]).read_text(encoding="utf-8").splitlines()[0]
    assert "declarations" in first.lower()
    assert "drawers.py" in first
    assert tables.current(drawer) == tables.rows(drawer), "run `make tables`"


def test_the_tables_of_the_studies_are_those_of_their_results() -> None:
    text = (ROOT / tables.READMES["studies"]).read_text(encoding="utf-8")
    assert tables.put_studies(text) == text, "run `make tables`"
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert tables.put_measured(methods) == methods, "run `make tables`"
    assert methods.count("<!-- measured:") >= 6


def test_one_floor_for_python_everywhere() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    floors = [
        re.search(r'requires-python = ">=3\.(\d+)"', text),
        re.search(r'target-version = "py3(\d+)"', text),
        re.search(r'python_version = "3\.(\d+)"', text),
    ]
    assert {floor[1] if floor else None for floor in floors} == {"10"}


@pytest.mark.network
def test_a_jetson_gets_neither_torch_nor_tensorrt_from_the_registry() -> None:
    """The extra holds the base, so neither brings them."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.10", "--python-platform", "aarch64-manylinux_2_31"]
    command += ["--extra", "jetson", "pyproject.toml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if "Failed to fetch" in done.stderr:
        pytest.skip("the package registry does not answer")
    assert done.returncode == 0, done.stderr
    resolved = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert {"onnxruntime", "numpy"} <= resolved
    assert not [name for name in resolved if name.startswith(("torch", "tensorrt", "nvidia", "pycuda", "triton"))]
