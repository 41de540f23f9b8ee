"""The command `keys`, and where a signature counts: in the bench, in the gate, in the back end."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from kd2edge import keys, signing
from kd2edge.artifact import Artifact, describe, manifest_path, signature_path
from kd2edge.cli import app
from kd2edge.edge import jobs, worker
from kd2edge.edge.bench import bench
from kd2edge.edge.gate import judge
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.schema import Rule, Target
from kd2edge.verbs import operating
from tests.test_edge_listed import BRIEF, WEIGHTS, People, embedder

RULES = (Rule(metric="size", of="fp32", at_most=1.0, why="it fits"),)
TARGET = Target(about="here", backend="onnxruntime", flavour="ort-x86", precisions=("fp32",))


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KD2EDGE_PASSPHRASE", raising=False)
    if "processes" not in request.node.name:
        monkeypatch.setattr(jobs, "run_job", worker.perform)
    return tmp_path / "home"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)])


def told(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout.splitlines()[-1])


def test_from_a_key_to_a_verified_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = told("new", "release")
    assert (made["name"], made["private"], made["trusted"]) == ("release", True, True)
    model = embedder(tmp_path / "fp32.onnx", WEIGHTS)
    (unsigned,) = told("verify", model.path)
    assert "is not signed" in unsigned["fault"]
    assert run("verify", model.path).exit_code == 1
    (signed,) = told("sign", model.path, "--key", "release")
    assert Path(signed["signature"]) == signature_path(model.path)
    (verified,) = told("verify", model.path)
    assert (verified["name"], verified["key"], verified["fault"]) == ("release", made["key"], None)
    done = run("verify", model.path)
    assert done.exit_code == 0
    assert f"signed by release {made['key'][:16]} on {verified['time']}" in done.output
    public = shutil.copy(home / "keys" / "release.pub", tmp_path / "factory.pub")
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "device"))
    assert told("list") == []
    assert run("verify", model.path).exit_code == 1
    assert told("trust", public)["name"] == "factory"
    assert [(one["name"], one["private"]) for one in told("list")] == [("factory", False)]
    assert "factory" in run("list").output
    model.path.write_bytes(b"other")
    assert "sha256 differs" in told("verify", model.path)[0]["fault"]


def test_one_false_file_fails_them_all_and_each_is_told(tmp_path: Path) -> None:
    run("new", "release")
    good, bad = (embedder(tmp_path / f"{name}.onnx", WEIGHTS) for name in ("good", "bad"))
    assert run("sign", good.path, bad.path, "--key", "release").exit_code == 0
    signature_path(bad.path).write_bytes(b"{}")
    done = run("verify", good.path, bad.path, tmp_path / "gone.onnx", "--json")
    assert done.exit_code == 1
    faults = [one["fault"] for one in json.loads(done.stdout.splitlines()[-1])]
    assert faults[0] is None
    assert "cannot be read" in faults[1]
    assert "There is no file" in faults[2]


def test_either_all_are_signed_or_none(tmp_path: Path) -> None:
    run("new", "release")
    good, bad = (embedder(tmp_path / f"{name}.onnx", WEIGHTS) for name in ("good", "bad"))
    bad.path.write_bytes(b"changed")
    done = run("sign", good.path, bad.path, "--key", "release")
    assert done.exit_code == 2
    assert "sha256 differs" in done.output
    assert not signature_path(good.path).exists()


@pytest.mark.parametrize(
    "asked",
    [
        ["new"],
        ["new", "a", "b"],
        ["new", "../a"],
        ["list", "a"],
        ["trust"],
        ["trust", "gone.pub"],
        ["sign", "x.onnx"],
        ["sign", "--key", "a"],
        ["sign", "x.onnx", "--key", "a"],
        ["verify"],
        ["list", "--key", "a"],
        ["burn", "a"],
    ],
    ids=" ".join,
)
def test_what_is_asked_wrongly_is_told_and_changes_nothing(
    asked: list[str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*asked).exit_code == 2
    assert not home.exists()


def judged(artifact: Artifact, **suite: Any) -> Any:
    report = bench(
        [("fp32", artifact)], TARGET, "here", BRIEF.model_copy(update={"rules": RULES, **suite}), "brief", People()
    )
    (row,) = report.rows
    return judge(report), row.conditions


def test_the_gate_of_a_signed_suite_ships_what_is_signed_and_holds_the_rest(tmp_path: Path) -> None:
    model = embedder(tmp_path / "fp32.onnx", WEIGHTS)
    verdict, conditions = judged(model, signed=True)
    assert verdict.verdict == "hold"
    assert "nobody signed it" in verdict.findings[0].reason
    made = keys.create("release")
    signing.sign(model, "release")
    verdict, conditions = judged(model, signed=True)
    assert verdict.verdict == "ship", verdict
    assert conditions["signed"] == {"key": made.key, "name": "release"}
    assert "unsigned" not in conditions
    (keys.home() / "trusted" / "release.pub").unlink()
    verdict, conditions = judged(model, signed=True)
    assert verdict.verdict == "hold"
    assert "not trusted here" in verdict.findings[0].reason
    assert "unsigned" not in judged(model)[1]  # where nobody asks, it is no news


def test_a_target_that_requires_signatures_runs_nothing_else(tmp_path: Path) -> None:
    model = embedder(tmp_path / "fp32.onnx", WEIGHTS)
    strict, backend = TARGET.model_copy(update={"require_signature": True}), open_backend("onnxruntime")
    with pytest.raises(UserError, match="not signed"):
        backend.open(model.path, strict)
    keys.create("release")
    signing.sign(model, "release")
    with backend.open(model.path, strict) as session:
        assert session.infer(np.zeros((2, 1, 8, 6), np.float32)).shape == (2, WEIGHTS.shape[1])
    signature_path(model.path).write_bytes(signature_path(model.path).read_bytes().replace(b'"name":"r', b'"name":"R'))
    with pytest.raises(UserError, match="one of them was changed"):
        backend.open(model.path, strict)


def test_a_machine_that_requires_signatures_runs_nothing_else_by_any_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = embedder(tmp_path / "fp32.onnx", WEIGHTS)
    x = np.zeros((1, 1, 8, 6), np.float32)
    monkeypatch.setenv("KD2EDGE_REQUIRE_SIGNATURE", "1")
    for read in (lambda: run_onnx(model.path, x), lambda: open_backend("onnxruntime").open(model.path, TARGET)):
        with pytest.raises(UserError, match="not signed"):
            read()
    manifest = manifest_path(model.path)
    kept = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(UserError, match="no manifest"):
        run_onnx(model.path, x)
    manifest.write_bytes(kept)
    keys.create("release")
    monkeypatch.delenv("KD2EDGE_REQUIRE_SIGNATURE")
    signing.sign(model, "release")
    monkeypatch.setenv("KD2EDGE_REQUIRE_SIGNATURE", "1")
    assert run_onnx(model.path, x).shape == (1, WEIGHTS.shape[1])


def test_processes_of_a_bench_refuse_what_is_unsigned(tmp_path: Path) -> None:
    model = embedder(tmp_path / "fp32.onnx", WEIGHTS)
    strict = TARGET.model_copy(update={"require_signature": True})
    (row,) = bench([("fp32", model)], strict, "here", BRIEF, "brief", People()).rows
    assert "not signed" in row.faults[0]


def test_a_manifest_of_a_model_whose_weights_lie_elsewhere_vouches_for_nothing(tmp_path: Path) -> None:
    model = embedder(tmp_path / "whole.onnx", WEIGHTS)
    path = tmp_path / "fp32.onnx"
    onnx.save(onnx.load(str(model.path)), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    split = describe(path, **{k: getattr(model.manifest, k) for k in ("kind", "role", "verb", "preprocessing")})
    keys.create("release")
    signing.sign(split, "release")
    with open_backend("onnxruntime").open(path, TARGET):
        pass
    with pytest.raises(UserError, match="does not vouch"):
        open_backend("onnxruntime").open(path, TARGET.model_copy(update={"require_signature": True}))


def test_a_signed_manifest_is_not_rewritten_by_a_bench(tmp_path: Path) -> None:
    model = embedder(tmp_path / "fp32.onnx", WEIGHTS)
    report = bench([("fp32", model)], TARGET, "here", BRIEF, "brief", People())
    keys.create("release")
    signing.sign(model, "release")
    before = manifest_path(model.path).read_bytes()
    operating.keep([("fp32", model)], report)
    assert manifest_path(model.path).read_bytes() == before
    signature_path(model.path).unlink()
    operating.keep([("fp32", model)], report)
    assert manifest_path(model.path).read_bytes() != before
