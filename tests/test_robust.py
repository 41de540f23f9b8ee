"""What may happen to a run from outside: Ctrl-C, SIGKILL, a full disk, damaged files. Nothing is lost, all is told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd2edge.artifact import open_artifact
from kd2edge.run import open_run
from tests import tiny

pytestmark = [pytest.mark.kd, pytest.mark.slow]

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(folder, {"name": "kd"})))
    return path


def kd2edge(*arguments: object, **options: Any) -> Done:
    command = [sys.executable, "-m", "kd2edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kd2edge", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file has something in it, or the process has ended."""
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.02)


def weights(run: Path) -> dict[str, str]:
    return {role: open_artifact(path).manifest.sha256 for role, path in open_run(run).files("weights").items()}


# Many short epochs, so that the signal finds it training.
LONGER = ("--set", "train.epochs=8", "--set", "teacher.train.epochs=8")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of the weights of a training that nothing stopped."""
    place = tmp_path_factory.mktemp("whole")
    (place / "tiny.yaml").write_text(yaml.safe_dump(tiny.recipe(folder, {"name": "kd"})))
    assert kd2edge("distill", place / "tiny.yaml", *LONGER, "--run", place / "run").returncode == 0
    return weights(place / "run")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_stopped_training_is_continued_to_the_same_weights(
    recipe: Path, uninterrupted: dict[str, str], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    process = start("distill", recipe, *LONGER, "--run", tmp_path / "run")
    wait_for(tmp_path / "run" / "log" / "teacher.jsonl", process)
    process.send_signal(how)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == code, told
    if code == 130:
        assert f"kd2edge distill --run {tmp_path / 'run'} --resume" in " ".join(told.split())
        assert "Traceback" not in told
    assert list(open_run(tmp_path / "run").events())
    assert kd2edge("distill", "--run", tmp_path / "run", "--resume").returncode == 0
    assert weights(tmp_path / "run") == uninterrupted
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB: room for a recipe and a ledger, not for the checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(recipe: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    full = kd2edge("distill", recipe, "--run", run)
    assert full.returncode == 2, full.stderr
    assert "The disk is full" in full.stdout + full.stderr
    assert "Traceback" not in full.stdout + full.stderr
    assert not list(run.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resumed = kd2edge("distill", "--run", run, "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert set(weights(run)) == {"teacher", "fp32"}


def test_all_unknown_keys_are_told_at_once_with_the_nearest_name(recipe: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load(recipe.read_text())
    tree["sede"] = 1
    tree["train"]["epoch"] = 3
    tree["method"]["taw"] = 4
    tree["student"]["model"]["arhc"] = "8"
    tree["data"]["sise"] = 16
    tree["compare"] = ["plian"]
    recipe.write_text(yaml.safe_dump(tree))
    told = kd2edge("distill", recipe, "--run", tmp_path / "run")
    text = " ".join((told.stdout + told.stderr).split())
    assert told.returncode == 2
    for wrong, right in [
        ("sede", "seed"),
        ("train.epoch", "epochs"),
        ("method.taw", "tau"),
        ("student.model.arhc", "arch"),
        ("data.sise", "size"),
    ]:
        assert f"{wrong}: unknown key (did you mean '{right}'?)" in text, text
    assert "did you mean 'plain'" in text
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    recipe = place / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny.recipe(folder, {"name": "plain"}, teacher=None)))
    assert kd2edge("distill", recipe, "--run", place / "run").returncode == 0
    return place / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def refused(done: Done, words: str) -> None:
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, text
    assert words in text, text
    assert "Traceback" not in text


def test_a_corrupt_onnx_file_is_told_and_the_run_is_left_alone(run: Path) -> None:
    model = run / "fp32.onnx"
    model.write_bytes(model.read_bytes()[:500])
    before = snapshot(run)
    refused(kd2edge("quantize", run), "sha256 differs")
    (run / "fp32.onnx.manifest.json").unlink()
    refused(kd2edge("quantize", model, "--data", run), "cannot be read as ONNX")
    before.pop("fp32.onnx.manifest.json")
    assert snapshot(run) == before


def test_a_truncated_checkpoint_is_told(recipe: Path, tmp_path: Path) -> None:
    process = start("distill", recipe, "--set", "teacher.train.epochs=200", "--run", tmp_path / "run")
    partial = tmp_path / "run" / "train" / "teacher" / "teacher.partial.safetensors"
    wait_for(partial, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    partial.write_bytes(partial.read_bytes()[: partial.stat().st_size // 2])
    before = snapshot(tmp_path / "run")
    refused(kd2edge("distill", "--run", tmp_path / "run", "--resume"), "is damaged")
    assert snapshot(tmp_path / "run") == before


def test_missing_data_is_told_before_anything_is_made(recipe: Path, tmp_path: Path) -> None:
    missing = kd2edge("distill", recipe, "--set", "data.path=/no/such/folder", "--run", tmp_path / "run")
    refused(missing, "/no/such/folder")


def test_a_wrong_input_size_is_told(recipe: Path, tmp_path: Path) -> None:
    refused(kd2edge("distill", recipe, "--set", "data.size=18", "--run", tmp_path / "run"), "divisible by 4")


def test_json_is_the_last_line_of_a_failure_too(tmp_path: Path) -> None:
    done = kd2edge("gate", tmp_path / "no.json", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])
    assert os.listdir(tmp_path) == []
