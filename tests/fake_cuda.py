"""Runs test cases in a process whose libcuda is the stand-in `fake_cuda.c`, with the real pycuda or cuda-python on it.

A process of its own, since a library path is read when one starts, and since a driver that is not there must not be
seen by any other test.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kd2edge.edge.cuda import choice
from kd2edge.edge.cuda.seam import Cuda

TESTS = Path(__file__).parent
MODULES = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}
PACKAGE = "CUDA_PACKAGE_UNDER_TEST"
KINDS = ("contexts", "device buffers", "pinned buffers", "streams", "events", "graph templates", "graphs")


def compiled(folder: Path) -> Path:
    """The folder, with the library in it. Skips where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the stand-in for libcuda with")
    sources = [str(TESTS / "fake_cuda.c"), str(TESTS / "fake_cuda_absent.c")]
    how = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *how, "-o", str(folder / "libcuda.so.1"), *sources, "-ldl"], check=True)
    return folder


def run_cases(name: str, package: str, folder: Path) -> None:
    """All tests of a file that pytest does not collect by itself, through one package. Skips where it is missing."""
    top, _, _ = MODULES[package].partition(".")
    if importlib.util.find_spec(top) is None:
        pytest.skip(f"{package} is not installed; it is compiled where there is a driver: pip install {package}")
    path = os.pathsep.join(part for part in (str(compiled(folder)), os.environ.get("LD_LIBRARY_PATH")) if part)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / name)],
        cwd=TESTS.parent,
        env={**os.environ, "LD_LIBRARY_PATH": path, PACKAGE: package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


class Fake:
    """The stand-in's own side: what is alive in it, and what is to fail."""

    def __init__(self) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.driver.fake_memory.argtypes = (size,)
        self.driver.fake_kernel.argtypes = (pointer, pointer, pointer, size, ctypes.c_float, ctypes.c_int64)
        self.reset()

    def reset(self) -> None:
        self.driver.fake_memory(64 << 20)
        self.driver.fake_devices(1)
        self.driver.fake_driver(13000)
        self.fail("", 0, 0)

    def alive(self) -> dict[str, int]:
        """How many there are of what was made and not destroyed; of what there is none, nothing."""
        counts = {kind: int(self.driver.fake_live(place)) for place, kind in enumerate(KINDS)}
        return {kind: count for kind, count in counts.items() if count}

    def made(self) -> int:
        """Calls that made something since the last `fail`."""
        return int(self.driver.fake_made())

    def fail(self, call: str, nth: int, code: int, stays: bool = False) -> None:
        """Let the nth call of that name from now on fail, "*" for all that make something; then all if it `stays`."""
        self.driver.fake_fail(call.encode(), nth, code, stays)

    def kernel(self, stream: int, to: int, what: int, count: int, by: float, ns: int) -> int:
        return int(self.driver.fake_kernel(stream, to, what, count, by, ns))


def only_the_package_under_test(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Cuda]:
    """Makes it the one there is, and returns what opens a context."""
    name = os.environ[PACKAGE]
    chosen: Any = [package for package in choice.PACKAGES if package.package == name]
    monkeypatch.setattr(choice, "PACKAGES", chosen)
    return lambda: choice.open_cuda("TensorRT")
