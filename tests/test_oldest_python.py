"""Python 3.10, which JetPack 6 has: the base install works there, torch-free, where such an interpreter is found.

The edge wing alone needs less than the base install: a bench runs there with its own dependencies and nothing else.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.boards import ROLES, Board, furnish, requirements
from tests.tables import ROOT

pytestmark = [pytest.mark.network, pytest.mark.slow]


def interpreter() -> str:
    """A working python3.10, on the path or kept by pyenv."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which("python3.10"), *sorted(kept.glob("3.10.*/bin/python"))):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return str(candidate)
    pytest.skip("no python3.10 on this machine")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but what `kd2edge.edge` imports with the back end onnxruntime."""
    room = tmp_path_factory.mktemp("edge")
    subprocess.run([interpreter(), "-m", "venv", room], check=True)
    installed(room, *requirements())
    return room


@pytest.fixture(scope="module")
def command(edge: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base install in another one, which has the packages of the first, pip too, by a path to them."""
    room = tmp_path_factory.mktemp("oldest")
    subprocess.run([interpreter(), "-m", "venv", "--without-pip", room], check=True)
    site = Path("lib", "python3.10", "site-packages")
    (room / site / "edge.pth").write_text(f"{edge / site}\n")
    installed(room, str(ROOT))
    return str(room / "bin" / "kd2edge")


def installed(room: Path, *wanted: str) -> None:
    """Install into a virtual environment; skips where the registry does not answer."""
    command = [str(room / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, cwd=room)
    if "No matching distribution" in done.stderr or "Could not fetch" in done.stderr:
        pytest.skip(f"the package registry does not answer: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def test_a_model_is_quantized_and_asked_without_torch(command: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "data" / "omniglot", tmp_path / "models")
    for arguments in (
        ["list", "recipes"],
        ["doctor"],
        ["quantize", "models/fp32.onnx"],
        ["export", "models/fp32.onnx", "--onnx"],
    ):
        done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([command, "distill"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "torch" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def board(edge: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board((str(edge / "bin" / "python"),), None, furnish(tmp_path_factory.mktemp("board")))


@pytest.mark.parametrize("role", ROLES)
def test_python_3_10_computes_what_this_machine_computes(board: Board, role: str) -> None:
    """Its onnxruntime is 1.23, the last for 3.10; a value between two steps may be rounded to the other one."""
    differences = board.differences(role)
    assert np.mean(differences <= 1e-4) >= (1 if role == "fp32" else 0.9)
    assert differences.max() <= 0.01


def test_the_bench_needs_nothing_but_the_edge_wings_own_dependencies(board: Board) -> None:
    report = board.benched()
    assert [(row.role, row.faults) for row in report.rows] == [("fp32", ()), ("int8", ())]
    assert report.device["python"].startswith("3.10.")
    for row in report.rows:
        assert row.numbers["top1"].value == pytest.approx(board.top1(row.role), abs=100 / 30 + 1e-9)
        assert (row.numbers["latency_p50"].n or 0) >= 12
