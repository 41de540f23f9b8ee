"""Suites that bring their own test set: how `--data` completes them, and what a run keeps of its own."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from kd2edge import artifact, drawers
from kd2edge import run as runs
from kd2edge.artifact import manifest_path, open_artifact
from kd2edge.cli import app
from kd2edge.edge import jobs, worker
from kd2edge.edge.operating import stored
from kd2edge.errors import UserError
from kd2edge.run import Run
from kd2edge.schema import Preprocessing, Suite
from kd2edge.verbs import precisions
from kd2edge.verbs.bench import bench
from kd2edge.verbs.export import export
from kd2edge.verbs.gate import gate
from kd2edge.verbs.quantize import quantize
from kd2edge.verbs.suite_data import own_data
from tests import outliers

SIDE = 8
PEOPLE = 20
BRIEF = {"latency": {"batch": 1, "warmup_ms": 1, "seconds": 0.01, "min_samples": 9}, "rules": []}
SHARED = Preprocessing(size=(SIDE, SIDE), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, decoder="none")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_job", worker.perform)


def lfw(folder: Path) -> Path:
    """Files as insightface packs them: lfw.bin, 40 pairs of 20 people with two images each, and who they are."""
    random = np.random.default_rng(0)
    pictures = random.integers(60, 196, (PEOPLE, 1, SIDE, SIDE, 3))
    images = (pictures + random.integers(-60, 60, (PEOPLE, 2, SIDE, SIDE, 3))).astype(np.uint8)
    listed, names, same = [], [], []
    for person in range(PEOPLE):
        for other in (person, (person + 1) % PEOPLE):
            listed += [images[person, 0], images[other, 1]]
            names += [f"P{person}/0.png", f"P{other}/1.png"]
            same.append(other == person)
    encoded = []
    for pixels in listed:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        encoded.append(file.getvalue())
    folder.mkdir(exist_ok=True)
    (folder / "lfw.bin").write_bytes(pickle.dumps((encoded, same), protocol=4))
    (folder / "names.txt").write_text("\n".join(names))
    return folder


def embedder(path: Path, digits: int, **manifest: Any) -> Path:
    weights = np.round(np.random.default_rng(1).standard_normal((3 * SIDE * SIDE, 16)), digits).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    if manifest:
        fields = {"kind": "onnx", "role": path.stem, "verb": "test", "preprocessing": SHARED}
        artifact.describe(path, **(fields | {"task": "verification", "output": "embedding"} | manifest))
    return path


def suite(path: Path, **data: Any) -> str:
    own = {"name": "insightface_bin", "path": "lfw.bin", "mode": "insightface", "flip": True, "size": SIDE, **data}
    path.write_text(yaml.safe_dump({"about": "it never ships", "data": own, **BRIEF}))
    return str(path)


def made_run(folder: Path, data: dict[str, Any]) -> Run:
    """A run whose student was never trained: its FP32 and its INT8 lie in it as if they had been."""
    recipe = drawers.read_recipe("omniglot", (f"data={json.dumps(data)}", "task=verification", "compare=[]"))
    run = runs.create(folder, recipe, resume=False)
    run.add(artifact.open_artifact(embedder(folder / "fp32.onnx", 6, precision="fp32")), "distill")
    int8 = precisions.in_run(run, "int8", "ort-x86")
    embedder(int8, 0, role="int8", precision="int8", flavour="ort-x86", details={"calibrator": "mse"})
    run.add(artifact.open_artifact(int8), "quantize")
    return run


def test_a_file_or_its_folder_completes_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lfw(tmp_path / "faces")
    declared = drawers.read_suite("lfw")
    for given in (folder, folder / "lfw.bin"):
        found = own_data(declared, "lfw", given)
        assert found is not None
        assert found.options == {"path": str(folder / "lfw.bin"), "mode": "insightface", "flip": True}
    monkeypatch.chdir(folder)
    assert own_data(declared, "lfw", None) is not None  # it lies where one works
    assert declared.data is not None
    also = {**declared.data.model_dump(), "names": "names.txt"}
    named = Suite.model_validate({"about": "", "data": also, "rules": []})
    found = own_data(named, "mine", folder)
    assert found is not None
    assert found.options["names"] == str(folder / "names.txt")
    assert own_data(drawers.read_suite("default"), "default", folder) is None


def test_a_folder_is_the_test_set_or_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists lie beside the test set, wherever one works."""

    def completed(given: str, **data: str) -> dict[str, Any]:
        stated = Suite.model_validate({"about": "", "data": data, "rules": []})
        found = own_data(stated, "mine", Path(given))
        assert found is not None
        return found.options

    folder = lfw(tmp_path / "faces")
    monkeypatch.chdir(tmp_path)
    listed = {"name": "insightface_bin", "path": "lfw.bin", "names": "names.txt"}
    for given in ("faces", "faces/lfw.bin"):
        assert completed(given, **listed) == {"path": str(folder / "lfw.bin"), "names": str(folder / "names.txt")}
    for name in ("people", "IJB-C.1"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        place = str(tmp_path / "sets" / name)
        for given in ("sets", f"sets/{name}", place):
            assert completed(given, name="imagefolder", path=name)["path"] == place
    assert completed("sets/people", name="imagefolder", path="faces of others")["path"] == f"{tmp_path}/sets/people"
    monkeypatch.chdir(tmp_path / "sets" / "people")
    found = completed(".", name="imagefolder", path="people", names="names.txt")
    assert (found["path"], found["names"]) == (f"{tmp_path}/sets/people", f"{tmp_path}/sets/names.txt")


def test_a_path_that_is_no_text_is_told(tmp_path: Path) -> None:
    five = Suite.model_validate({"about": "", "data": {"name": "ijb", "path": 5, "edition": "ijbc"}, "rules": []})
    for given in (None, tmp_path / "none"):
        with pytest.raises(UserError, match="The suite mine needs"):
            own_data(five, "mine", given)
    found = own_data(five, "mine", tmp_path)
    assert found is not None
    assert found.options["path"] == str(tmp_path)


def test_a_missing_test_set_is_told_with_the_option_that_mends_it(tmp_path: Path) -> None:
    for given in (None, tmp_path, tmp_path / "lfw.bin"):
        with pytest.raises(UserError, match=r"The suite lfw needs lfw\.bin") as fault:
            own_data(drawers.read_suite("lfw"), "lfw", given)
        assert "--data" in str(fault.value.hint)
    folders = Suite.model_validate({"about": "", "data": {"name": "ijb", "edition": "ijbc"}, "rules": []})
    with pytest.raises(UserError, match="The suite ijbc needs its test set"):
        own_data(folders, "ijbc", None)
    assert own_data(folders, "ijbc", tmp_path) is not None


def test_a_foreign_model_is_judged_by_a_bin_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, folder = embedder(tmp_path / "student.onnx", 6), lfw(tmp_path / "faces")
    report = bench([model], suite(tmp_path / "brief.yaml"), data=folder, preprocess="minus-one-one")
    (row,) = report.rows
    assert row.faults == ()
    assert {"pair_accuracy", "pair_val@1e-3", "pair_far_at_fp32_threshold"} & set(row.numbers) >= {"pair_accuracy"}
    assert "eer" not in row.numbers
    assert row.conditions["data"]["source"] == "insightface_bin"
    assert row.conditions["data"]["images"] == 2 * PEOPLE
    assert report.command.endswith(f"--data {folder}")
    assert gate(tmp_path / "report.json").verdict == "hold"


def test_a_run_keeps_its_operating_threshold_in_what_ships(tmp_path: Path) -> None:
    folder = lfw(tmp_path / "faces")
    data = {"name": "insightface_bin", "path": str(folder / "lfw.bin"), "size": SIDE, "folds": 5}
    run = made_run(tmp_path / "run", {**data, "names": str(folder / "names.txt")})
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"about": "it never ships", **BRIEF}))
    report = bench([run.path], str(brief), "onnx-cpu")
    fp32, int8 = (report.row(role) for role in ("fp32", "int8"))
    assert fp32 is not None
    assert int8 is not None
    expected = {
        "threshold": fp32.conditions["thresholds"]["1e-2"],  # 760 impostors are too few for 1e-3
        "far": "1e-2",
        "pairs": "all",
        "flip": False,
        "split": "test",
        "data": fp32.conditions["data"],
        "target": "onnx-cpu",
        "fp32": fp32.sha256,
    }
    shipped = {role: run.artifact(role) for role in ("fp32", "int8")}
    manifests = [one.manifest for one in shipped.values()]
    assert [manifest.details["operating"] for manifest in manifests] == [expected, expected]
    assert manifests[1].details["calibrator"] == "mse"
    # INT8 goes elsewhere, alone, and the threshold goes with it
    named = suite(tmp_path / "own.yaml", names="names.txt", flip=False, folds=5)
    (alone,) = bench([shipped["int8"].path], named, data=folder, out=tmp_path / "alone.json").rows
    for name in ("far_at_fp32_threshold", "frr_at_fp32_threshold"):
        assert alone.numbers[name].value == int8.numbers[name].value


def test_a_run_is_judged_by_the_suites_own_set_beside_its_report(tmp_path: Path) -> None:
    folder = lfw(tmp_path / "faces")
    data = {"name": "insightface_bin", "path": str(folder / "lfw.bin"), "size": SIDE}
    run = made_run(tmp_path / "run", data)
    report = bench([run.path], suite(tmp_path / "brief.yaml", folds=4), "onnx-cpu", data=folder)
    assert [row.faults for row in report.rows] == [(), ()]
    assert report.rows[0].conditions["pairs"]["folds"] == 4
    assert (run.path / "brief" / "report.html").is_file()
    assert not (run.path / "report.json").exists()
    assert "operating" not in open_artifact(run.path / "fp32.onnx").manifest.details
    with pytest.raises(UserError, match=r"--data goes with a MODEL\.onnx"):
        bench([run.path], "study", "onnx-cpu", data=folder)


def test_a_manifest_that_says_classification_is_no_wrong_option(tmp_path: Path) -> None:
    folder = lfw(tmp_path / "faces")
    model = embedder(tmp_path / "student.onnx", 6, task="classification", output="logits", precision="fp32")
    brief, out = suite(tmp_path / "brief.yaml"), tmp_path / "report.json"
    (row,) = bench([model], brief, data=folder, out=out).rows
    assert row.faults == ("It has 16 outputs where the data has 0 classes.",)
    with pytest.raises(UserError, match="says classification, not verification") as fault:
        bench([model], brief, data=folder, out=out, task="verification")
    assert fault.value.hint == "leave --task out"


@pytest.mark.parametrize(
    "kept", [None, float("nan"), float("inf"), "abc", [], 17, 10**400], ids=lambda kept: f"{kept!r:.5}"
)
def test_what_is_no_cosine_is_no_threshold_to_be_held_to(kept: Any) -> None:
    assert stored({"operating": {"threshold": kept, "far": "1e-3"}}) is None
    assert stored({"operating": kept}) is None


def test_what_is_made_of_a_model_is_deployed_with_its_threshold(tmp_path: Path) -> None:
    fp32, kept = outliers.classifier(tmp_path / "net.onnx", outliers.folder(tmp_path)), {"threshold": 0.5}
    benched = fp32.manifest.model_copy(update={"details": {"operating": kept, "seed": 1}})
    manifest_path(fp32.path).write_text(benched.model_dump_json())
    quantize(fp32.path, "nvidia-rtx")
    made = {one.manifest.precision: one.manifest for one in export(fp32.path, target="nvidia-rtx")}
    assert [manifest.details["operating"] for manifest in made.values()] == [kept] * 3
    assert made["fp16"].details == {"operating": kept}


def test_the_command_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lfw(tmp_path / "faces")
    embedder(tmp_path / "student.int8.onnx", 0, precision="int8", role="int8")
    suite(tmp_path / "mine.yaml", names="names.txt")
    command = ["bench", "student.int8.onnx", "--suite", "mine.yaml", "--data", "faces", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["numbers"]["pair_accuracy"]["note"].endswith("2,000 resamples of 20 subjects")
    assert row["numbers"]["eer"]["value"] is not None
