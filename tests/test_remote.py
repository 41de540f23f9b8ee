"""`export` and `bench` on another machine, over a real sshd: a bare Python with a wheelhouse, without torch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from kd2edge import artifact, keys, signing
from kd2edge.artifact import Artifact
from kd2edge.drawers import read_target
from kd2edge.edge.kit import RESULT
from kd2edge.errors import UserError
from kd2edge.report.model import Report
from kd2edge.verbs import remote_transfer
from kd2edge.verbs.bench import bench
from kd2edge.verbs.export import export
from kd2edge.verbs.remote import Elsewhere, KitWritten
from kd2edge.verbs.remote_address import parse
from kd2edge.verbs.remote_bench import bench_elsewhere
from kd2edge.verbs.remote_export import export_elsewhere
from kd2edge.verbs.remote_wheels import here
from tests import far as given
from tests import sshd
from tests.sshd import Sshd

pytestmark = pytest.mark.network
EXACT = ("top1", "top5", "macs", "parameters", "size", "top1_over_chance")  # what does not depend on time


class Listening:
    """Keeps what is told; `at` is called once, when a step with that word in it is shown."""

    def __init__(self, word: str = "", at: Any = None) -> None:
        self.said: list[str] = []
        self.steps: list[str] = []
        self._word, self._at = word, at

    def start(self, what: str, total: int) -> None:
        self.steps.append(what)

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        self.steps.append(str(figures.get("now")))
        if self._at is not None and self._word in self.steps[-1]:
            at, self._at = self._at, None
            at()

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    root = tmp_path_factory.mktemp("remote")
    given.wheelhouse(root / "cache", given.ORT)
    path = sshd.bare_python(root / "bare")
    with sshd.serving(root / "far", path) as serving, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", serving.command)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setenv("KD2EDGE_HOME", str(root / "own"))
        patch.setattr(remote_transfer, "PAUSES", (0, 0, 0, 0))
        yield serving


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    (tmp_path / "brief.yaml").write_text(given.SUITE)
    return given.model(tmp_path)


def over(far: Sshd, told: Listening, folder: str = "", port: int | None = None) -> Elsewhere:
    return Elsewhere(told, "kd2edge again", on=parse(f"ssh://127.0.0.1:{port or far.port}{folder}"))


def measured(model: Artifact, elsewhere: Elsewhere) -> Report:
    folder = model.path.parent
    return bench_elsewhere([model.path], elsewhere, suite=str(folder / "brief.yaml"), out=folder / "report.json")


def test_the_far_side_has_no_torch_and_nothing_else(far: Sshd) -> None:
    command = [*far.command.split(), "-p", str(far.port), "127.0.0.1", "python3 -c 'import torch'"]
    assert "No module named 'torch'" in subprocess.run(command, capture_output=True, text=True).stderr
    command[-1] = "python3 -c 'import numpy'"
    assert "No module named 'numpy'" in subprocess.run(command, capture_output=True, text=True).stderr


def test_a_remote_bench_has_the_numbers_of_a_local_one(far: Sshd, model: Artifact, tmp_path: Path) -> None:
    told = Listening()
    there = measured(model, over(far, told))
    (tmp_path / "own").mkdir()
    local = bench([model.path], suite=str(tmp_path / "brief.yaml"), out=tmp_path / "own" / "report.json")
    (one,), (other,) = there.rows, local.rows
    assert one.faults == other.faults == ()
    assert one.file == other.file == str(model.path)
    assert set(one.numbers) == set(other.numbers)
    for name in EXACT:
        assert one.numbers.get(name) == other.numbers.get(name), name
    assert one.numbers["top1"].value == 100.0
    assert one.conditions["data"] == other.conditions["data"]
    assert there.versions["onnxruntime"] == local.versions["onnxruntime"]
    assert f"--on {far.address}" in there.command
    assert (tmp_path / "report.html").is_file()
    assert "bench on 127.0.0.1" in told.steps
    assert list((far.home / ".cache/kd2edge/work").iterdir()) == []


def test_a_bench_whose_connection_is_lost_goes_on(far: Sshd, model: Artifact) -> None:
    with sshd.proxy(far) as between:
        told = Listening("round 2", between.cut)
        report = measured(model, over(far, told, port=between.port))
    assert report.rows[0].faults == ()
    assert any("connection to 127.0.0.1 was lost" in line for line in told.said)
    assert any("An interrupted bench left" in line for line in told.said)


def test_a_remote_export_proves_the_files_where_they_will_run(far: Sshd, model: Artifact) -> None:
    room = far.root / 'it\'s "a" room'
    folder = str(room).replace(" ", "%20").replace('"', "%22")
    told, again = Listening(), Listening()
    (made,) = export_elsewhere(model.path, over(far, told, folder))
    assert made.manifest.precision == "fp32"
    assert any("cosine 1.000000" in line and line.startswith("fp32 on") for line in told.said)
    export_elsewhere(model.path, over(far, again, folder))
    assert any("0.0 MiB sent" in line for line in again.said)
    assert list((room / "work").iterdir()) == []  # the same command works anew
    (kit,) = (room / "kits").iterdir()
    (kit / "code" / "sitecustomize.py").write_text("raise SystemExit('owned')")
    with pytest.raises(UserError, match=r"did not put there: code/sitecustomize\.py"):
        export_elsewhere(model.path, over(far, told, folder))


def test_engines_are_not_asked_of_a_runtime_that_has_none(far: Sshd, model: Artifact) -> None:
    with pytest.raises(UserError, match="no engine to build"):
        export_elsewhere(model.path, over(far, Listening()), trt=True, target="onnx-cpu")


@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed")
def test_an_engine_is_built_there_and_signed_here(far: Sshd, model: Artifact, tmp_path: Path) -> None:
    target = read_target("nvidia-rtx").model_copy(update={"precisions": ("fp32",), "compute_capabilities": ("8.6",)})
    (tmp_path / "card.yaml").write_text(json.dumps(target.model_dump(mode="json")))
    given.wheelhouse(tmp_path / "cache", target)
    keys.create("release")
    lend(far, "tensorrt_rtx*")
    told = Listening()
    (engine,) = export_elsewhere(
        model.path, over(far, told), sign="release", trt=True, target=str(tmp_path / "card.yaml")
    )
    assert engine.path.name == "it's a model.card.engine"
    found = artifact.open_artifact(engine.path, require_signature=True)
    signature = signing.signature_of(found)
    assert signature is not None
    assert signature.name == "release"
    assert found.manifest.parents == (model.manifest.sha256,)
    assert found.manifest.details["built_on"]["tensorrt"]
    assert found.manifest.details["target"] == target.model_dump(mode="json")
    assert "no NVIDIA driver" in found.manifest.details["parity_not_proved"]
    (line,) = [line for line in told.said if "has it as" in line]
    there = Path(line.partition("has it as ")[2].replace("~", str(far.home), 1))
    assert there.read_bytes() == engine.path.read_bytes()
    for path in (artifact.manifest_path, artifact.signature_path):
        assert path(there).read_bytes() == path(engine.path).read_bytes()
    assert not [path for path in far.home.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()[:200]]


def lend(far: Sshd, pattern: str) -> None:
    """What a JetPack has installed for its Python: packages of this machine's, in the far side's."""
    spec = util.find_spec("tensorrt_rtx")
    assert spec is not None
    assert spec.origin is not None
    (site,) = (far.root.parent / "bare").glob("lib/python*/site-packages")
    for path in Path(spec.origin).parents[1].glob(pattern):
        (site / path.name).symlink_to(path)


@pytest.fixture
def carried(far: Sshd, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Elsewhere]:
    """A kit for this machine, written, run by its one command in an environment of its own, and what takes it up."""
    monkeypatch.setattr("kd2edge.verbs.remote.places_of", lambda target: (here(),))
    with pytest.raises(KitWritten) as written:
        export_elsewhere(model.path, Elsewhere(Listening(), "again", kit=tmp_path / "kit"))
    (tmp_path / "home").mkdir()
    environment = {"PATH": f"{far.root.parent}/bare/bin:/usr/bin:/bin", "HOME": str(tmp_path / "home")}
    command = ["sh", "-c", written.value.command]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1] == "fp32: onnxruntime ..."  # for people, not for the host
    assert done.stdout.endswith("bring it back.\n")
    return tmp_path / "kit" / "results", Elsewhere(Listening(), "again", brought=tmp_path / "kit")


def test_a_kit_is_carried_there_and_its_results_back(carried: tuple[Path, Elsewhere], model: Artifact) -> None:
    results, elsewhere = carried
    assert {path.name for path in results.rglob("*") if path.is_file()} == {RESULT, "outputs.npy"}
    export_elsewhere(model.path, elsewhere)
    assert any("cosine 1.000000" in line for line in elsewhere.progress.said)  # type: ignore[attr-defined]
    tampered(results, model, elsewhere)


def tampered(results: Path, model: Artifact, elsewhere: Elsewhere) -> None:
    """Each kind of file that comes back, and the kit they claim to be of."""
    (outputs,) = results.rglob("outputs.npy")
    whole, text = outputs.read_bytes(), (results / RESULT).read_text()
    outputs.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(model, elsewhere, "was changed")
    outputs.write_bytes(whole)
    told = json.loads(text)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"kit": "0" * 64}, "not made here"),
        ({"target_name": "another"}, "of another kit"),
        ({"made": []}, "not made of the models"),
        ({"made": [{**told["made"][0], "parent": "1" * 64}]}, "not made of the models"),
        ({"made": [{**told["made"][0], "engine": "0/x.engine"}]}, "not what was asked for"),
        ({"made": [{**told["made"][0], "outputs": "../x"}]}, "no plain path"),
        ({"files": {"../x": told["files"]["0/outputs.npy"]}}, "no plain path"),
        ({"report": "0/outputs.npy"}, "not what was asked for"),
    ]
    for change, why in changes:
        (results / RESULT).write_text(json.dumps({**told, **change}))
        refused(model, elsewhere, why)
    (results / RESULT).write_text("{")
    refused(model, elsewhere, "cannot be read")
    (results / RESULT).write_text(text)
    export_elsewhere(model.path, elsewhere)  # whole again


def refused(model: Artifact, elsewhere: Elsewhere, why: str) -> None:
    with pytest.raises(UserError, match=why):
        export_elsewhere(model.path, elsewhere)


def test_what_is_exported_here_is_signed_too(far: Sshd, model: Artifact, tmp_path: Path) -> None:
    keys.create("shipper")
    (made,) = export(model.path, out=tmp_path / "out", sign="shipper")
    assert made.path.parent == tmp_path / "out"
    assert artifact.open_artifact(made.path, require_signature=True).manifest.sha256 == model.manifest.sha256


def test_the_command_line(far: Sshd, model: Artifact, tmp_path: Path) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "kd2edge", *words]
        return subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)

    done = run("export", model.path.name, "--on", far.address, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0]["sha256"] == model.manifest.sha256
    assert "cosine" in done.stderr
    done = run("bench", model.path.name, "--on", far.address, "--kit", "x")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr
    done = run("bench", model.path.name, "--on", "orin")
    assert done.returncode == 2
    assert "no address" in done.stderr
