"""The CUDA seam: the real pycuda and cuda-python, on a stand-in for libcuda, do what sessions need of them.

What is fake is the library that they load (`fake_cuda.c`). What the real one does, only a GPU tells (`test_gpu.py`).
"""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from kd2edge.edge.cuda import choice, faults
from kd2edge.edge.cuda.seam import Cuda
from tests.fake_cuda import MODULES, run_cases


@pytest.mark.parametrize("package", list(MODULES))
def test_the_seam_on_a_device_that_is_counted_out(package: str, tmp_path: Path) -> None:
    run_cases("cuda_cases.py", package, tmp_path)


def test_the_codes_are_cuda_s_own() -> None:
    names = {
        faults.OUT_OF_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY",
        faults.NO_DEVICE: "CUDA_ERROR_NO_DEVICE",
        faults.LAUNCH_FAILED: "CUDA_ERROR_LAUNCH_FAILED",
        faults.CAPTURE_UNSUPPORTED: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
    }
    results = pytest.importorskip("cuda.bindings.driver").CUresult
    assert {code: results(code).name for code in names} == names
    lost = {results(code).name.removeprefix("CUDA_ERROR_") for code in faults.LOST}
    assert {"ECC_UNCORRECTABLE", "ILLEGAL_ADDRESS", "LAUNCH_FAILED", "DEVICE_UNAVAILABLE", "LAUNCH_TIMEOUT"} < lost
    assert {results(code).name.split("_")[2] for code in faults.CAPTURE} <= {"STREAM", "CAPTURED"}


def test_without_a_driver_or_a_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    class Missing(Cuda):
        package = "pycuda"

        def __new__(cls) -> "Missing":
            raise ImportError("libcuda.so.1: undefined symbol: cuCtxCreate_v4")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert "no NVIDIA driver" in str(choice.driver_fault("TensorRT"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(choice, "PACKAGES", (Missing,))
    said = str(choice.driver_fault("TensorRT"))
    for part in ("pycuda or cuda-python", "undefined symbol: cuCtxCreate_v4", "pip install"):
        assert part in said


def test_pycuda_is_taken_before_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [package.package for package in choice.PACKAGES] == ["pycuda", "cuda-bindings"]
    made: list[str] = []

    def opens(name: str) -> Any:
        return type(name, (), {"package": name, "__init__": lambda self: made.append(name)})

    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(choice, "PACKAGES", (opens("first"), opens("second")))
    assert choice.driver_fault("TensorRT") is None
    assert choice.open_cuda("TensorRT").package == "first"
