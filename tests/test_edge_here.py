"""What an examination knows of this machine: asked in an order that does not disturb it, and of the right package."""

from pathlib import Path
from types import ModuleType

import pytest

from kd2edge import drawers
from kd2edge.edge import here as facts
from tests.jetsons import tree

NANO, DGPU, RTX = (drawers.read_target(name) for name in ("jetson-orin-nano", "nvidia-dgpu", "nvidia-rtx"))


def test_who_computes_on_the_gpu_is_asked_before_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    computing = False

    def builder(trt: object) -> int:
        nonlocal computing
        computing = True
        return 0

    monkeypatch.setattr(facts, "_dla_cores", builder)
    monkeypatch.setattr(facts, "_watched", lambda root: {"others": ("doctor",) if computing else ()})
    trt = ModuleType("tensorrt")
    trt.__dict__["__version__"] = "10.3.0"
    monkeypatch.setattr(facts, "_module", lambda name: trt)
    assert facts.gather(DGPU).others == ()
    assert computing


def test_the_cuda_of_a_package_is_that_of_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"usr/local/cuda/version.json": '{"cuda": {"version": "12.9.1"}}'})
    packages = {"tensorrt-rtx-cu13-libs": "1.7", "tensorrt-cu12-libs": "10.3"}
    monkeypatch.setattr(facts, "_version", packages.get)
    told = {target.backend: facts._toolkit(target, tmp_path) for target in (RTX, DGPU)}
    assert told == {"tensorrt_rtx": "13.0", "tensorrt": "12.0"}
    assert facts._toolkit(NANO, tmp_path) == "12.9"
    monkeypatch.setattr(facts, "_version", {}.get)
    assert facts._toolkit(DGPU, tmp_path) is None  # a toolkit that lies about is not what TensorRT came with
