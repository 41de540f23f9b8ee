"""Python 3.10, which JetPack 6 has: the base install works there, torch-free, where such an interpreter is found."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    room = tmp_path_factory.mktemp("oldest")
    subprocess.run([interpreter(), "-m", "venv", room], check=True)
    install = [str(room / "bin" / "pip"), "install", "--quiet", str(ROOT)]
    done = subprocess.run(install, capture_output=True, text=True, cwd=room)
    if "No matching distribution" in done.stderr or "Could not fetch" in done.stderr:
        pytest.skip(f"the package registry does not answer: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return str(room / "bin" / "kd2edge")


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
