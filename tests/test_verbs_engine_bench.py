"""Bench measures the very engine that was exported: by a back end whose engines are ONNX files under another name."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kd2edge import drawers
from kd2edge.artifact import manifest_path, open_artifact
from kd2edge.files import sha256
from kd2edge.run import Run, open_run
from kd2edge.verbs.bench import bench, run_items, shipping
from kd2edge.verbs.distill import distill
from kd2edge.verbs.engines import graph_of
from kd2edge.verbs.export import export
from kd2edge.verbs.gate import gate

pytestmark = pytest.mark.kd

BACKEND = """
import onnx
from kd2edge.edge.backends.onnxruntime import OnnxRuntime

class Other(OnnxRuntime):
    name = "other"

    def build(self, path, target, out):
        model = onnx.load(str(path))
        model.doc_string = "an engine"
        onnx.save(model, str(out))
        return out
"""
SUITE = {
    "about": "short",
    "latency": {"batch": 1, "warmup_ms": 1, "seconds": 0.01, "min_samples": 10},
    "rules": [{"metric": "top1", "of": "fp32", "at_least": 0, "why": "it is there"}],
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for shade, name in ((40, "dark"), (200, "light")):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for index in range(8):
                pixels = np.clip(rng.normal(shade, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    (folder / "other.py").write_text(BACKEND)
    (folder / "short.yaml").write_text(yaml.safe_dump(SUITE))
    target = {"about": "a test", "flavour": "tensorrt", "precisions": ["fp32"], "backend": str(folder / "other.py")}
    (folder / "device.yaml").write_text(yaml.safe_dump(target))
    recipe = {
        "about": "tiny",
        "task": "classification",
        "data": {"name": "imagefolder", "path": str(folder / "images"), "size": 16, "val_fraction": 0},
        "student": {"model": {"name": "resnet_cifar", "arch": "8"}},
        "method": {"name": "plain"},
        "train": {"epochs": 1, "batch": 8, "lr": 0.05},
        "suite": str(folder / "short.yaml"),
        "target": str(folder / "device.yaml"),
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    distill(str(folder / "tiny.yaml"), (), folder / "run", False)
    return folder


def fp32(run: Run, room: Path) -> Path:
    name = str(room / "device.yaml")
    return dict(shipping(run, run_items(run, drawers.read_target(name)), name))["fp32"].path


def test_what_was_exported_is_measured_and_what_was_not_is_built(room: Path) -> None:
    run = open_run(room / "run")
    before = bench([run.path])
    assert before.rows[0].file.endswith("fp32.onnx")
    [engine] = export(run.path, trt=True)  # for the run's own target
    assert engine.manifest.kind == "engine"
    report = bench([run.path])
    row = report.row("fp32")
    assert row is not None
    assert row.faults == ()
    assert (Path(row.file), row.sha256) == (engine.path, sha256(engine.path))
    assert row.numbers["parameters"] == before.rows[0].numbers["parameters"]  # of the ONNX file beside it
    assert row.numbers["top1"] == before.rows[0].numbers["top1"]
    assert gate(run.path).findings[0].says != "hold"


def test_an_engine_that_was_exchanged_since_is_a_fault_of_its_row(room: Path) -> None:
    run = open_run(room / "run")
    engine = fp32(run, room)
    kept = engine.read_bytes()
    engine.write_bytes(kept + b"\0")
    try:
        row = bench([run.path]).rows[0]
        assert "sha256 differs" in row.faults[0]
        assert gate(run.path).verdict == "hold"
    finally:
        engine.write_bytes(kept)


def test_the_engine_of_an_older_file_is_passed_over(room: Path) -> None:
    run = open_run(room / "run")
    engine = fp32(run, room)
    told = json.loads(manifest_path(engine).read_text())
    manifest_path(engine).write_text(json.dumps({**told, "parents": ["0" * 64], "lineage": []}))
    try:
        assert fp32(run, room).name == "fp32.onnx"
        assert graph_of(open_artifact(engine)) is None
    finally:
        manifest_path(engine).write_text(json.dumps(told))
    assert fp32(run, room) == engine
