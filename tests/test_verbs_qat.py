"""`quantize --qat`, and `ship` of a recipe with a `qat` section: real runs of tiny nets, interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from kd2edge.errors import Exit, UserError
from kd2edge.graph.parity import run_onnx
from kd2edge.run import open_run
from kd2edge.verbs import distill as distil
from kd2edge.verbs.qat import qat
from kd2edge.verbs.quantize import quantize
from kd2edge.verbs.ship import int8_run, quantized, trained
from tests import tiny

pytestmark = pytest.mark.kd


def recipe(root: Path, **changes: Any) -> Path:
    folder = tiny.image_folder(root / "images")
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(folder, {"name": "kd"}, **changes)))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("qat")
    made = distil.distill(str(recipe(root, qat={"epochs": 2, "lr": 0.005})), (), root / "run")
    return made.path


def values(path: Path) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


def edges(path: Path) -> list[tuple[str, list[str], list[str]]]:
    """Every node with its edges, biases (which calibration may correct under another name) left out."""
    nodes = onnx.load(str(path)).graph.node
    return [(n.op_type, [name for name in n.input if "bias" not in name], list(n.output)) for n in nodes]


@pytest.mark.parametrize("target", ["onnx-cpu", "trt-oracle"])
def test_training_in_int8_changes_the_scales_and_not_where_they_stand(run: Path, target: str, tmp_path: Path) -> None:
    calibrated = tmp_path / "calibrated.onnx"
    calibrated.write_bytes(quantize(run, target).path.read_bytes())
    made = qat(run, target)
    assert edges(made.path) == edges(calibrated)
    before, after = values(calibrated), values(made.path)
    assert any(not np.array_equal(before[name], after[name]) for name in before if "_quantized" in name)
    assert any(not np.array_equal(before[name], after[name]) for name in before if name.endswith("_scale"))


def test_the_manifest_says_how_it_was_trained_and_that_the_file_is_what_was_trained(run: Path) -> None:
    made = qat(run, "onnx-cpu").manifest
    assert (made.role, made.precision, made.flavour) == ("int8", "int8", "ort-x86")
    assert made.details["qat"]["epochs"] == 2
    assert made.details["qat"]["lr"] == 0.005
    assert made.details["qat"]["against_torch"]["cosine_mean"] >= 0.999
    assert made.details["coverage"]["layers"] > 0
    assert made.parity is not None
    log = [json.loads(line) for line in (run / "log" / "qat-ort-x86.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]
    assert {"ce", "kl"} <= {*log[0]}


def test_a_killed_training_goes_on_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    straight = qat(run, "onnx-cpu").path
    path = recipe(tmp_path, qat={"epochs": 2, "lr": 0.005}, data=open_run(run).recipe.data.model_dump())
    other = distil.distill(str(path), (), tmp_path / "run").path
    command = [sys.executable, "-m", "kd2edge", "quantize", str(other), "--qat", "--target", "onnx-cpu"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    partial = other / "train" / "qat-ort-x86"
    while process.poll() is None and not list(partial.glob("*.partial.safetensors")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (other / "student.int8-ort-x86.onnx").is_file()
    again = qat(other, "onnx-cpu").path
    one, two = values(straight), values(again)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_ship_trains_in_int8_where_the_recipe_says_so(run: Path) -> None:
    assert trained(open_run(run))
    from kd2edge.progress import Silent

    made = int8_run(open_run(run), "onnx-cpu", Silent())
    assert "qat" in made.manifest.details
    assert np.isfinite(run_onnx(made.path, np.zeros((1, 3, 16, 16), np.float32))).all()


def test_a_calibrated_file_does_not_pass_for_the_trained_one_that_the_recipe_asks_for(run: Path) -> None:
    made = open_run(run)
    quantize(run, "onnx-cpu")
    assert not quantized(made, "onnx-cpu")
    qat(run, "onnx-cpu")
    assert quantized(made, "onnx-cpu")


def test_a_student_may_start_from_weights_and_be_trained_in_int8_only(run: Path, tmp_path: Path) -> None:
    weights, images = run / "fp32.safetensors", open_run(run).recipe.data.model_dump()
    path = recipe(tmp_path, data=images, student={**tiny.net(), "weights": str(weights)})
    made = distil.distill(str(path), ("train.epochs=0",), tmp_path / "run")
    probe = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(
        run_onnx(made.artifact("fp32").path, probe), run_onnx(open_run(run).artifact("fp32").path, probe)
    )
    assert qat(made.path, "onnx-cpu").manifest.details["qat"]["epochs"] == 1


def test_an_onnx_file_has_nothing_to_be_trained_by(run: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        qat(run / "fp32.onnx", "onnx-cpu")


def test_the_command_line_takes_the_flag_and_refuses_what_does_not_go_with_it(run: Path) -> None:
    command = [sys.executable, "-m", "kd2edge", "quantize", str(run), "--qat"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["details"]["qat"]["epochs"] == 2
    refused = subprocess.run([*command, "--calibrator", "minmax"], capture_output=True, text=True)
    assert refused.returncode == Exit.ASKED_WRONGLY
    assert "--qat" in refused.stderr
