"""A run from its recipe to its verdict, for real and in small: Omniglot characters as a folder of images."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from kd2edge import drawers
from kd2edge.artifact import chain_fault, open_artifact
from kd2edge.cli import app
from kd2edge.data import open_source
from kd2edge.errors import UserError
from kd2edge.report.model import read_report
from kd2edge.run import Run, open_run
from kd2edge.verbs.bench import bench, run_items
from kd2edge.verbs.distill import directory, distill
from kd2edge.verbs.export import export
from kd2edge.verbs.gate import gate
from kd2edge.verbs.predict import Compared, predict
from kd2edge.verbs.quantize import quantize
from kd2edge.verbs.ship import ship

pytestmark = pytest.mark.kd

CHARACTERS = 10
TRAINING_WRITERS = 12
TRAIN = {"epochs": 2, "batch": 24, "lr": 0.05}
SUITE = {
    "about": "small numbers, short measurements",
    "latency": {"batch": 1, "warmup_ms": 1, "seconds": 0.01, "min_samples": 10},
    "rules": [
        {"metric": "tar@1e-2", "of": "fp32", "at_least": 0, "why": "two epochs teach little"},
        {"metric": "cosine_to_fp32", "of": "int8", "at_least": 0.9, "why": "INT8 must resemble FP32"},
        {"metric": "latency_p50", "of": "int8", "versus": "fp32", "ratio_at_most": 1, "why": "speed", "advice": True},
    ],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("omniglot")
    characters = open_source({"name": "omniglot", "size": 32}).split("train")
    pictures = characters.read(np.arange(20 * CHARACTERS))
    for index, picture in enumerate(pictures):
        split = "train" if index % 20 < TRAINING_WRITERS else "test"
        path = root / "images" / split / f"character{index // 20:02}" / f"{index % 20:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(path)
    (root / "brief.yaml").write_text(yaml.safe_dump(SUITE))
    net = {"model": {"name": "resnet_cifar", "arch": "8"}, "embedding": 16}
    tree = {
        "about": "a small run",
        "task": "verification",
        "data": {"name": "imagefolder", "path": str(root / "images"), "size": 32, "color": "L", "val_fraction": 0},
        "teacher": {**net, "train": TRAIN},
        "student": net,
        "method": {"name": "kd"},
        "train": TRAIN,
        "quantize": {"images": 50},
        "suite": str(root / "brief.yaml"),
    }
    plain = json.loads(json.dumps(tree))  # YAML would write what is shared as an alias, and --set then changes both
    (root / "small.yaml").write_text(yaml.safe_dump(plain))
    return root / "small.yaml"


@pytest.fixture(scope="module")
def shipped(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change something take a `copy`."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    result = CliRunner().invoke(app, ["ship", str(recipe), "--run", str(path)])
    assert result.exit_code == 0, result.output
    assert "SHIP" in result.stdout
    assert str(path / "report.html") in result.stdout
    return path


@pytest.fixture
def copy(shipped: Path, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(shipped, tmp_path / "copy")))


def made(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["event"] == "artifact"]


def test_every_model_of_a_run_has_its_row_its_lineage_and_its_curve(shipped: Path) -> None:
    report = read_report(shipped / "report.json")
    assert [row.role for row in report.rows] == ["teacher", "fp32", "int8"]
    assert not any(row.faults for row in report.rows)
    assert all(row.numbers["parameters"].usable and row.numbers["macs"].usable for row in report.rows)
    run = open_run(shipped)
    int8, fp32 = run.artifact("int8"), run.artifact("fp32")
    assert int8.manifest.parents == (fp32.manifest.sha256,)
    assert chain_fault(int8.manifest) is None
    assert [(one.kind, one.role) for one in int8.manifest.lineage] == [
        ("onnx", "fp32"),
        ("weights", "fp32"),
        ("recipe", "recipe"),
    ]
    assert int8.manifest.lineage[-1].sha256 == hashlib.sha256((shipped / "recipe.yaml").read_bytes()).hexdigest()
    assert int8.manifest.details["images"] == 50
    assert int8.manifest.output == "embedding"
    assert (shipped / "verdict.json").is_file()
    page = (shipped / "report.html").read_text()
    assert all(role in page for role in ("teacher", "fp32", "int8"))


def test_a_finished_run_is_shipped_again_without_doing_anything_twice(copy: Run) -> None:
    before = list(copy.events())
    report = (copy.path / "report.json").read_bytes()
    again = ship(run=copy.path, resume=True)
    assert again.verdict.verdict == "ship"
    assert list(copy.events()) == before
    assert (copy.path / "report.json").read_bytes() == report


def test_only_what_was_lost_is_made_again(copy: Run) -> None:
    before = made(copy)
    int8 = copy.artifact("int8")
    int8.path.unlink()
    ship(run=copy.path, resume=True)
    assert [event["role"] for event in made(copy)[len(before) :]] == ["int8"]
    assert copy.artifact("int8").manifest.sha256 == int8.manifest.sha256, "the same images by the same seed"


def test_a_model_that_was_altered_is_not_shipped(copy: Run) -> None:
    model = copy.artifact("fp32").path
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(UserError, match="sha256 differs"):
        ship(run=copy.path, resume=True)


def test_a_missing_file_is_a_row_that_holds(copy: Run) -> None:
    copy.artifact("int8").path.unlink()
    report = bench([copy.path])
    row = report.row("int8")
    assert row is not None
    assert row.faults
    verdict = gate(copy.path)
    assert verdict.verdict == "hold"
    assert any("faulty" in finding.reason for finding in verdict.findings)


def test_a_verdict_is_about_the_files_that_are_there_now(copy: Run) -> None:
    def judged(code: int) -> str:
        result = CliRunner().invoke(app, ["gate", str(copy.path)])
        assert result.exit_code == code, result.output
        return " ".join(result.stdout.split())

    assert "Verdict for onnx-cpu" in judged(0)
    measured = copy.artifact("int8").manifest.sha256
    for calibrator in ("minmax", "entropy"):  # one of them is not what "auto" chose
        quantize(copy.path, calibrator=calibrator)
        if copy.artifact("int8").manifest.sha256 != measured:
            break
    assert "int8 was changed after it was measured: bench again" in judged(1)
    bench([copy.path])
    judged(0)
    copy.artifact("int8").path.unlink()
    assert "student.int8-ort-x86.onnx is gone" in judged(1)


def test_a_replaced_file_with_a_manifest_of_its_own_is_found_out(copy: Run) -> None:
    ours, other = copy.artifact("fp32"), copy.artifact("teacher")
    shutil.copyfile(other.path, ours.path)
    forged = ours.manifest.model_copy(update={"sha256": other.manifest.sha256})
    ours.path.with_name(f"{ours.path.name}.manifest.json").write_text(forged.model_dump_json())
    items = dict(run_items(copy, drawers.read_target("onnx-cpu")))
    assert items["fp32"].manifest.sha256 == ours.manifest.sha256


def test_each_target_gets_the_int8_of_its_flavour(copy: Run) -> None:
    first = copy.artifact("int8").path
    nvidia = quantize(copy.path, "nvidia-rtx")
    assert nvidia.manifest.flavour == "tensorrt"
    for target, expected in (("onnx-cpu", first), ("nvidia-rtx", nvidia.path)):
        assert dict(run_items(copy, drawers.read_target(target)))["int8"].path.resolve() == expected.resolve()


def test_an_export_copies_what_ships_and_repeats_the_parity_with_torch(copy: Run, tmp_path: Path) -> None:
    files = export(copy.path, out=tmp_path / "device")
    assert [one.manifest.precision for one in files] == ["fp32", "int8"]
    assert all(open_artifact(one.path).path.parent == tmp_path / "device" for one in files)
    probe = copy.artifact("fp32").path.with_suffix(".probe.npz")
    with np.load(probe) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(probe, **{**arrays, "reference": -arrays["reference"]})
    with pytest.raises(UserError, match="disagrees with its reference"):
        export(copy.path)


def test_drawings_are_compared_by_the_recommended_model(shipped: Path, recipe: Path) -> None:
    folder = recipe.parent / "images" / "test"
    files = [folder / "character00" / "15.png", folder / "character00" / "16.png", folder / "character05" / "15.png"]
    found = predict(shipped, files)
    assert isinstance(found, Compared)
    assert len(found.first[0]) == 5
    cosine = np.array(found.cosine)
    assert cosine.shape == (3, 3)
    row = read_report(shipped / "report.json").row(gate(shipped).recommend or "")
    assert row is not None
    assert found.threshold == row.conditions["thresholds"]["1e-3"]
    assert (np.array(found.same) == (cosine > (found.threshold or 0))).all()
    told = CliRunner().invoke(app, ["predict", str(shipped), *map(str, files)]).stdout
    assert f"{found.cosine[0][1]:.4f} {'same' if found.same and found.same[0][1] else 'different'}" in told


def test_a_run_is_worked_on_by_one_process_at_a_time(copy: Run) -> None:
    with copy.lock():
        for verb in ("quantize", "export", "bench"):
            result = CliRunner().invoke(app, [verb, str(copy.path)])
            assert result.exit_code == 2
            assert "Another process is working in" in result.stderr


def test_what_a_run_states_itself_cannot_be_said_again(shipped: Path, tmp_path: Path) -> None:
    for verb, option in (
        ("quantize", "--out"),
        ("quantize", "--data"),
        ("export", "--preprocess"),
        ("bench", "--data"),
    ):
        result = CliRunner().invoke(app, [verb, str(shipped), option, str(tmp_path)])
        assert result.exit_code == 2
        assert f"{option} goes with a MODEL.onnx" in result.stderr


def test_a_faulty_plug_in_is_told_before_a_directory_is_made(recipe: Path, tmp_path: Path) -> None:
    wrong = ("method.no_such_key=1", "student.model.arch=7")
    with pytest.raises(UserError, match="2 faults"):
        distill(str(recipe), wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_newest_run_of_a_recipe_is_the_one_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run of small"):
        directory("there/small.yaml", None, resume=True)
    for name in (
        "small-20260101-000000",
        "small-20260102-000000",
        "small-two-20270101-000000",
        "smaller-20270101-000000",
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.yaml").touch()
    assert directory("there/small.yaml", None, resume=True) == Path("runs/small-20260102-000000")
    assert directory("small", None, resume=False).name.startswith("small-2")
    assert directory("small", Path("mine"), resume=True) == Path("mine")


@pytest.mark.slow
def test_a_terminated_training_goes_on_where_it_stopped(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "kd2edge", "ship", str(recipe), "--run", str(run), "--set", "train.epochs=400"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    waited_for = run / "log" / "fp32.jsonl"
    while process.poll() is None and not (waited_for.exists() and waited_for.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert f"kd2edge ship --run {run} --resume" in stderr
    epochs = [json.loads(line)["epoch"] for line in waited_for.read_text().splitlines()]
    assert epochs
    assert max(epochs) < 400
    assert open_run(run).files("onnx").keys() == {"teacher"}
