"""A kit is verified before any of it is used: whatever was changed, added, left out or linked is refused by name."""

import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kd2edge.artifact import Artifact, Manifest
from kd2edge.data import InMemory, PairList, Protocol, Templates
from kd2edge.edge import exchange, start
from kd2edge.edge.kit import KIT, Result, plain, read_kit, read_result
from kd2edge.edge.shards import Shards, write_split
from kd2edge.errors import UserError
from kd2edge.report.model import Report, Row, write_json
from kd2edge.schema import Suite
from kd2edge.verbs import remote_kit
from kd2edge.verbs.images import open_data
from kd2edge.verbs.remote import Done
from kd2edge.verbs.remote_bench import _believed
from kd2edge.verbs.remote_kit import Parcel, new_kit, pack, write
from tests.far import ORT, model
from tests.test_edge_bench import BRIEF

FIELDS = {"file": "here.onnx", "sha256": "0" * 64, "bytes": 1, "kind": "onnx", "role": "fp32", "verb": "test"}


@pytest.fixture(scope="module")
def parcel(tmp_path_factory: pytest.TempPathFactory) -> Parcel:
    """A kit with images and a model, but no wheels: it can be verified, not run."""
    return made(tmp_path_factory.mktemp("made"))


def made(folder: Path) -> Parcel:
    given = model(folder)
    assert given.manifest.data is not None
    suite = Suite.model_validate({"about": "brief", "latency": BRIEF, "rules": [{"metric": "size", "of": "fp32",
                                  "at_most": 1.0, "why": "tiny"}]})  # fmt: skip
    kit = new_kit("onnx-cpu", ORT).model_copy(update={"suite": suite, "suite_name": "brief"})
    room = folder / "room"
    room.mkdir()
    probe = np.zeros((2, 3, 16, 16), np.float32)
    return pack(kit, [("fp32", given)], [], room, probe=probe, source=open_data(given.manifest.data))


@pytest.fixture
def kit(parcel: Parcel, tmp_path: Path) -> Path:
    write(parcel, tmp_path / "a kit")
    return tmp_path / "a kit"


def test_it_holds_our_code_without_training_and_without_data(parcel: Parcel) -> None:
    names = set(parcel.kit.files)
    assert {"start.py", "probe.npy", "data/images.npy", "code/kd2edge/edge/far.py", "code/kd2edge/artifact.py"} <= names
    assert {"models/0/it's a model.onnx", "models/0/it's a model.onnx.manifest.json"} <= names
    code = [name for name in names if name.startswith("code/")]
    assert all(name.endswith(".py") for name in code)
    assert not [name for name in code if {"kd", "verbs", "cli", "graph", "_omniglot"} & set(name.split("/"))]


def test_it_does_not_tell_where_its_maker_has_the_images(parcel: Parcel) -> None:
    manifest = json.loads(parcel.files["models/0/it's a model.onnx.manifest.json"].read_bytes())
    assert manifest["data"] is None
    assert parcel.kit.data is not None
    assert parcel.kit.data.name == "imagefolder"


def test_the_same_content_is_the_same_kit(parcel: Parcel, tmp_path: Path) -> None:
    again = made(tmp_path)
    assert again.kit.files["data/columns.npz"] == parcel.kit.files["data/columns.npz"]
    assert again.sha256 == parcel.sha256


def test_a_whole_kit_is_accepted_with_results_beside_it(parcel: Parcel, kit: Path) -> None:
    (kit / "results").mkdir()
    (kit / "results" / "result.json").write_text("{}")
    assert set(start.verified(str(kit), parcel.sha256)) == set(parcel.kit.files)


TAMPERED: dict[str, Callable[[Path], Any]] = {
    "start.py": lambda kit: _flip(kit / "start.py"),
    "models/0/it's a model.onnx": lambda kit: _flip(kit / "models/0/it's a model.onnx"),
    "models/0/it's a model.onnx.manifest.json": lambda kit: _flip(kit / "models/0/it's a model.onnx.manifest.json"),
    "data/images.npy": lambda kit: _flip(kit / "data/images.npy"),
    "data/columns.npz": lambda kit: _flip(kit / "data/columns.npz"),
    "probe.npy": lambda kit: _flip(kit / "probe.npy"),
    "code/kd2edge/edge/far.py": lambda kit: (kit / "code/kd2edge/edge/far.py").write_text("print('owned')"),
    "data/words.json": lambda kit: (kit / "data/words.json").unlink(),
    "code/sitecustomize.py": lambda kit: (kit / "code/sitecustomize.py").write_text("print('owned')"),
    "code/kd2edge/__pycache__/artifact.cpython-310.pyc": lambda kit: _put(
        kit / "code/kd2edge/__pycache__/artifact.cpython-310.pyc"
    ),
    "code/numpy": lambda kit: (kit / "code/numpy").symlink_to("/tmp"),
    "code/kd2edge/errors.py": lambda kit: _link(kit / "code/kd2edge/errors.py"),
    "kit.json": lambda kit: _flip(kit / "kit.json"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_kit_is_refused_by_the_files_name(parcel: Parcel, kit: Path, name: str) -> None:
    TAMPERED[name](kit)
    with pytest.raises(ValueError, match=name.replace("'", ".")):
        start.verified(str(kit), parcel.sha256)


def test_its_one_command_runs_nothing_of_a_tampered_kit(parcel: Parcel, tmp_path: Path) -> None:
    command = write(parcel, tmp_path / "a kit")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run()  # whole, but there are no wheels in it
    assert done.returncode == 2
    assert "and the kit is for" in done.stdout
    _put(tmp_path / "a kit" / "code" / "extra.py")
    assert "did not put there: code/extra.py" in run().stdout
    (tmp_path / "a kit" / "start.py").write_text("print('owned')")
    done = run()
    assert done.returncode != 0
    assert "owned" not in done.stdout
    assert "start.py" in done.stdout


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "a/./b", "a\\b", "a\0b", "a\nb"])
def test_a_kit_that_names_a_file_outside_itself_is_refused(tmp_path: Path, parcel: Parcel, name: str) -> None:
    tree = json.loads(parcel.text)
    tree["files"] = {name: {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}}
    text = json.dumps(tree).encode()
    (tmp_path / "kit" / "a").mkdir(parents=True)
    (tmp_path / "kit" / KIT).write_bytes(text)
    for place in ("x", "kit/a/b"):  # where some of these names would lead
        (tmp_path / place).touch()
    with pytest.raises(ValueError, match=r"outside its folder|lacks the file a\nb"):
        start.verified(str(tmp_path / "kit"), hashlib.sha256(text).hexdigest())
    with pytest.raises(UserError):
        read_kit(text)
    with pytest.raises(ValueError):
        plain(name)


def test_an_old_python_says_so_in_a_sentence(parcel: Parcel, kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "OLDEST", (9, 9))
    with pytest.raises(ValueError, match=r"the kit is for Python 9\.9 or newer"):
        start.start(str(kit), parcel.sha256, str(kit.parent / "room"), start.verified(str(kit), parcel.sha256), False)


@pytest.mark.parametrize("program", [start, exchange])
def test_an_old_python_can_read_what_is_run_before_its_version_is_known(program: ModuleType) -> None:
    tree = ast.parse(Path(str(program.__file__)).read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_a_kit_is_not_written_over_something_else(parcel: Parcel, kit: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        write(parcel, kit)


def test_results_of_an_unknown_kit_are_refused(parcel: Parcel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="not made here"):
        remote_kit.remembered("0" * 64)
    (tmp_path / "kd2edge" / "kits").mkdir(parents=True)
    (tmp_path / "kd2edge" / "kits" / f"{'0' * 64}.json").write_bytes(parcel.text)  # under another's digest
    with pytest.raises(UserError, match="not made here"):
        remote_kit.remembered("0" * 64)


def test_a_thousand_mutations_of_a_kit_are_refused_or_read(parcel: Parcel) -> None:
    result = json.dumps({"result": 1, "kit": "0" * 64, "kd2edge": "1", "target_name": "t", "device": {}, "versions": {},
                         "made": [{"role": "fp32", "parent": "0" * 64, "engine": "0/e"}],
                         "files": {"0/e": {"sha256": "0" * 64, "bytes": 3}}}).encode()  # fmt: skip
    draw, read = random.Random(7), 0
    for turn in range(1000):
        text, reader = ((parcel.text[:4000], read_kit), (result, read_result))[turn % 2]
        mutated = bytearray(text)
        for _ in range(draw.randint(1, 4)):
            mutated[draw.randrange(len(mutated))] = draw.randrange(256)
        try:
            reader(bytes(mutated))
        except UserError:
            continue
        read += 1
    assert read < 500


def test_a_result_does_not_steer_the_terminal_nor_fill_the_disk() -> None:
    told = {"result": 1, "kit": "0" * 64, "kd2edge": "1", "target_name": "t", "device": {}, "versions": {}, "files": {}}
    read_result(json.dumps({**told, "device": {"cpu": "Grün\n"}}).encode())
    for text in (json.dumps({**told, "device": {"cpu": "\x1b[2J"}}), json.dumps({**told, "kd2edge": "\x9b"})):
        with pytest.raises(UserError, match="control characters"):
            read_result(text.encode())
    with pytest.raises(UserError, match="GiB"):
        read_result(json.dumps({**told, "files": {"a": {"sha256": "0" * 64, "bytes": 1 << 40}}}).encode())


def test_a_report_of_other_models_or_another_suite_is_not_believed(parcel: Parcel, tmp_path: Path) -> None:
    items = [("fp32", Artifact(tmp_path / "here.onnx", Manifest.model_validate(FIELDS)))]
    row = Row(role="fp32", file="/there", sha256="0" * 64, precision="fp32", provider="", numbers={},
              conditions={"threads": 4, "signed": {"key": "0" * 64, "name": "release"}})  # fmt: skip
    assert parcel.kit.suite is not None
    report = Report(created="", command="", target="onnx-cpu", device={}, versions={}, suite_name="brief",
                    suite=parcel.kit.suite, rows=(row,))  # fmt: skip
    result = Result(kit="0" * 64, kd2edge="1", target_name="onnx-cpu", device={}, versions={}, report="r", files={})
    done = Done(parcel.kit, result, tmp_path)
    write_json(report, tmp_path / "r")
    (believed,) = _believed(done, parcel.kit, items).rows
    assert believed.file == str(tmp_path / "here.onnx")
    assert believed.conditions == {"threads": 4}  # who signed it, this machine says
    other = row.model_copy(update={"sha256": "1" * 64})
    for change in (
        {"rows": (other,)},
        {"rows": (row, row)},
        {"rows": ()},
        {"suite": parcel.kit.suite.model_copy(update={"rules": ()})},
        {"target": "jetson-thor"},
        {"command": "kd2edge bench --other"},
    ):
        write_json(report.model_copy(update=change), tmp_path / "r")
        with pytest.raises(UserError, match="report that came back"):
            _believed(done, parcel.kit, items)


@pytest.mark.parametrize("kind", ["labels", "pairs", "templates"])
def test_a_split_arrives_as_it_left(tmp_path: Path, kind: str) -> None:
    draw = np.random.default_rng(3)
    images, labels = draw.integers(0, 256, (6, 4, 4, 3), np.uint8), np.arange(6) // 2
    pairs, same = np.array([[0, 1], [2, 4]]), np.array([True, False])
    protocols: dict[str, Protocol | None] = {
        "labels": None,
        "pairs": PairList(pairs, same, 2, True, "insightface", {"age": np.array([0, 1])}, {"age": ["young", "old"]}),
        "templates": Templates(labels, labels, np.ones(6, np.float32), pairs, same, {"g/1": pairs}, {}, False),
    }
    split = InMemory(images, labels, {"writer": labels[::-1]}, ["a", "b", "c"])
    split.protocol = protocols[kind]
    write_split(split, tmp_path)
    found = Shards(tmp_path).split("test")
    np.testing.assert_array_equal(found.read(np.array([5, 0, 5])), images[[5, 0, 5]])
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.groups["writer"], labels[::-1])
    assert found.classes == ["a", "b", "c"]
    np.testing.assert_equal(
        vars(found.protocol) if found.protocol else None, vars(split.protocol) if split.protocol else None
    )
    (tmp_path / "columns.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be read"):
        Shards(tmp_path).split("test")


def test_the_far_side_needs_none_of_what_the_wheelhouse_leaves_out() -> None:
    """What the work imports, of packages that are installed here."""
    script = "import sys, kd2edge.edge.far; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "typer", "rich", "matplotlib", "jinja2", "yaml", "safetensors"} & set(
        done.stdout.split()
    )


def _fields(protocol: Protocol | None) -> dict[str, Any]:
    return {} if protocol is None else dict(vars(protocol))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("print('owned')")


def _link(path: Path) -> None:
    """The same bytes, but elsewhere, where they can be exchanged after they were looked at."""
    aside = path.parents[3] / "aside.py"
    shutil.copyfile(path, aside)
    path.unlink()
    path.symlink_to(aside)
