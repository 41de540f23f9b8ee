"""An engine runs where it was built for, or the reason why not is told; the GPU is asked through a driver made of C."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kd2edge.edge import built_on
from kd2edge.edge.built_on import misfit

ORIN = {
    "backend": "tensorrt",
    "tensorrt": "10.3.0",
    "gpu": "Orin",
    "sm": "8.7",
    "driver": "540.4.0",
    "cuda": "12.6",
    "board": "NVIDIA Jetson AGX Orin Developer Kit",
}
RTX = {**ORIN, "backend": "tensorrt_rtx", "tensorrt": "1.7.1.116", "compute_capabilities": ["8.6", "8.9"]}


def test_an_engine_fits_the_machine_it_was_built_on() -> None:
    assert misfit(ORIN, ORIN) is None
    assert misfit(ORIN, {**ORIN, "driver": "560.1", "cuda": "13.0"}) is None
    assert misfit(RTX, {**RTX, "sm": "8.9", "gpu": "NVIDIA L4"}) is None
    assert misfit({**RTX, "compute_capabilities": []}, {**RTX, "sm": "12.0"}) is None


@pytest.mark.parametrize(
    ("made", "here", "sentence"),
    [
        ({}, ORIN, "Nothing says where"),
        ({**ORIN, "tensorrt": None}, ORIN, "Nothing says where"),
        (ORIN, RTX, "by the back end tensorrt, not by tensorrt_rtx"),
        (ORIN, {**ORIN, "tensorrt": "10.7.0"}, "built with TensorRT 10.3.0, here is 10.7.0"),
        (ORIN, {**ORIN, "sm": "8.9", "gpu": "NVIDIA L4"}, r"for Orin \(SM 8\.7\), here is NVIDIA L4 \(SM 8\.9\)"),
        (ORIN, {**ORIN, "gpu": "Another"}, "here is Another"),
        (ORIN, {**ORIN, "board": "NVIDIA Jetson Orin Nano"}, "AGX .*, here is NVIDIA Jetson Orin Nano"),
        ({**ORIN, "board": None}, ORIN, "built on None, here is NVIDIA Jetson AGX"),
        (ORIN, {**ORIN, "gpu": None, "sm": None}, r"here is None \(SM None\)"),
        ({**ORIN, "gpu": None, "sm": None}, {**ORIN, "gpu": None, "sm": None}, "built for None"),
        ({**ORIN, "cuda": "13.0"}, ORIN, "under CUDA 13.0, the driver here knows 12.6"),
        (RTX, {**RTX, "sm": "7.5"}, r"for SM 8\.6, 8\.9, here is SM 7\.5"),
        (RTX, {**RTX, "sm": None}, "here is SM None"),
        ({**RTX, "compute_capabilities": None}, RTX, "for SM unknown, here is SM 8.7"),
        ({**ORIN, "compute_capabilities": []}, {**ORIN, "sm": "8.9"}, "here is Orin"),
    ],
)
def test_elsewhere_it_is_refused(made: dict[str, object], here: dict[str, object], sentence: str) -> None:
    fault = misfit(made, here)
    assert fault is not None
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(fault[0])
    assert fault[1]


def test_a_version_compatible_engine_goes_forward_by_one_major_version() -> None:
    made = {**ORIN, "version_compatible": True}
    assert misfit(made, {**ORIN, "tensorrt": "10.7.0"}) is None
    assert misfit(made, {**ORIN, "tensorrt": "11.4.1"}) is None
    assert misfit(made, {**ORIN, "tensorrt": "10.2.0"}) is not None
    assert misfit(made, {**ORIN, "tensorrt": "12.0.0"}) is not None
    assert misfit({**ORIN, "version_compatible": "yes"}, {**ORIN, "tensorrt": "10.7.0"}) is not None


def test_a_hardware_compatible_engine_goes_to_other_gpus() -> None:
    ampere = {**ORIN, "hardware_compatibility": "ampere_plus"}
    assert misfit(ampere, {**ORIN, "sm": "12.0", "gpu": "NVIDIA RTX 5090"}) is None
    assert misfit(ampere, {**ORIN, "sm": "7.5", "gpu": "NVIDIA T4"}) is not None
    assert misfit(ampere, {**ORIN, "sm": None, "gpu": None}) is not None
    same = {**ORIN, "hardware_compatibility": "same_compute_capability"}
    assert misfit(same, {**ORIN, "gpu": "Orin of another board"}) is None
    assert misfit(same, {**ORIN, "sm": "8.9"}) is not None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain)", "540.4.0"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        ("nothing", None),
    ],
)
def test_the_kernel_driver_is_read_from_proc(
    text: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(built_on, "KERNEL_DRIVER", tmp_path / "version")
    assert built_on.built_on("tensorrt", "10.3.0")["driver"] == version


DRIVER = """
#include <string.h>
#define FAILS(which) (getenv("FAILS") && strstr(getenv("FAILS"), which))
extern char *getenv(const char *);
int cuInit(unsigned flags) { return FAILS("init") ? 100 : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal != 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return device != 7; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return FAILS("attribute") ? 1 : 0;
}
"""
ASK = "from kd2edge.edge.built_on import built_on; f = built_on('b', '1'); print(f['gpu'], f['sm'], f['cuda'])"


@pytest.mark.parametrize(
    ("fails", "answer"),
    [("", "Orin 8.7 12.6"), ("init", "None None 12.6"), ("attribute", "Orin None 12.6")],
)
def test_the_gpu_is_asked_through_the_driver(fails: str, answer: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "FAILS": fails}
    said = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == answer.split()


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    facts = built_on.built_on("tensorrt_rtx", "1.7.1", ["8.6"])
    assert facts["gpu"] is facts["sm"] is facts["cuda"] is None
    assert facts["compute_capabilities"] == ["8.6"]
