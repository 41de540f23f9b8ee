"""A far side, or a kit on a stick, that means harm: nothing of it runs here or there, and all it gets is a sentence."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.artifact import Artifact
from kd2edge.edge import exchange, start
from kd2edge.edge.far import perform
from kd2edge.edge.kit import PROBE, RESULT, RESULTS, File, Kit, Made, Result, file_of, read_kit, read_result
from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.progress import Silent
from kd2edge.report.model import Report, Row
from kd2edge.verbs import remote, remote_kit, remote_ssh
from kd2edge.verbs.remote import Done, Elsewhere, done
from kd2edge.verbs.remote_address import Address
from kd2edge.verbs.remote_bench import _believed
from kd2edge.verbs.remote_export import export_elsewhere
from kd2edge.verbs.remote_kit import Parcel, new_kit, write
from kd2edge.verbs.remote_ssh import Talk, hello
from kd2edge.verbs.remote_transfer import fetch
from tests import far as given
from tests.far import ORT
from tests.test_remote_transfer import LIAR

FAR = Address("liar")
BEGUN = LIAR.split("if request.get")[0]
HELLO = "tell(python=[3, 11], machine='aarch64', libc=[2, 35])"


def lying(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Have `ssh` be a program that begins as a far side does, and then does this."""
    (folder / "liar.py").write_text(f"{BEGUN}\n{what}\n")
    monkeypatch.setenv("KD2EDGE_SSH", f"{sys.executable} {folder}/liar.py")


def parcel(folder: Path) -> Parcel:
    """The smallest kit that can be written: the program that verifies it, and a file in a folder."""
    folder.mkdir()
    files = {"start.py": Path(str(start.__file__)), "models/0/a.onnx": folder / "a.onnx"}
    files["models/0/a.onnx"].write_bytes(b"model")
    kit = new_kit("t", ORT).model_copy(update={"files": {name: file_of(path) for name, path in files.items()}})
    (folder / "kit.json").write_text(kit.model_dump_json())
    return Parcel(kit, (folder / "kit.json").read_bytes(), {**files, "kit.json": folder / "kit.json"})


@pytest.mark.parametrize("name", ["json", "hashlib", "platform", "zipfile", "sitecustomize"])
def test_a_module_beside_the_program_that_verifies_is_not_run(name: str, tmp_path: Path) -> None:
    command = write(parcel(tmp_path / "made"), tmp_path / "kit")
    (tmp_path / "kit" / f"{name}.py").write_text("print('owned')")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "kit")}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "owned" not in done.stdout
    assert f"did not put there: {name}.py" in done.stdout


def test_the_command_finds_its_folder_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parcel(tmp_path / "made")
    (tmp_path / "away" / "kit").mkdir(parents=True)
    for name in ("-kit", "kit", "it's $(id) a kit"):
        command = write(made, tmp_path / name)
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True,
                              env={"PATH": os.environ["PATH"], "CDPATH": str(tmp_path / "away")})  # fmt: skip
        assert "and the kit is for" in done.stdout, name
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert write(made, Path()).startswith("cd ./here && ")


def test_a_kit_is_not_started_from_where_python_would_look_elsewhere(tmp_path: Path) -> None:
    here = f"wheels/cp{sys.version_info[0]}{sys.version_info[1]}-{os.uname().machine}/x.whl"
    with pytest.raises(ValueError, match="finds nothing in a folder with ':'"):
        start.start(str(tmp_path / "a:b"), "0" * 64, str(tmp_path), {here: {}}, False)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_half_a_kit_does_not_stay(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, copy = parcel(tmp_path / "made"), shutil.copyfile

    def fails(source: Path, to: Path) -> object:
        if Path(to).name == "kit.json":
            raise fault
        return copy(source, to)

    monkeypatch.setattr(shutil, "copyfile", fails)
    with pytest.raises((KeyboardInterrupt, UserError)):
        write(made, tmp_path / "kit")
    monkeypatch.undo()
    assert list((tmp_path / "kit").iterdir()) == []
    write(made, tmp_path / "kit")


def test_what_it_says_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flood = "sys.stderr.write('x' * (1 << 24) + chr(10)); print('the end', file=sys.stderr, flush=True)"
    lying(tmp_path, monkeypatch, f"{flood}; {HELLO}")
    with Talk(FAR, exchange, {"do": "hello"}) as talk:
        assert talk.answer()["machine"] == "aarch64"
    assert len(talk._said) <= remote_ssh.SAID
    lying(tmp_path, monkeypatch, f"{flood}; sys.exit(3)")
    with pytest.raises(UserError, match=r"failed \(status 3\): the end"):
        hello(FAR)


def test_nonsense_about_its_progress_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["[" * 100_000, '{"step": "x", "share": NaN}', '{"step": "x", "share": Infinity}', '{"share": 1}',
             '{"step": [], "share": 1e400}', '{"step": "x", "share": -1}', "9" * 9999, '{"step": "x", "share": 0.5}',
             '{"result": 7}', "\x1b[2J", '{"result": "digest"}']  # fmt: skip
    lying(tmp_path, monkeypatch, f"print(*{lines!r}, sep='\\n', flush=True)")
    kit = Parcel(new_kit("t", ORT), b"{}", {})
    assert remote._work(FAR, "~/kit", kit, Silent()) == "digest"
    lying(tmp_path, monkeypatch, "tell(fault='\x1b[2J' + 'x' * 9999, hint=[1])")
    with pytest.raises(UserError) as fault:
        remote._work(FAR, "~/kit", kit, Silent())
    assert "\x1b" not in str(fault.value)
    assert len(str(fault.value)) < 1000


def test_names_that_get_in_each_others_way_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give = "for name, start in request['files']:\n    tell(bytes=1)\n    sys.stdout.write('x')"
    lying(tmp_path, monkeypatch, give)
    one = File(sha256=hashlib.sha256(b"x").hexdigest(), bytes=1)
    for names in (["a/b", "a"], ["a", "a/b"], ["b.part", "b"], ["b", "b.part"]):
        place = tmp_path / "-".join(names).replace("/", "_")
        try:
            fetch(FAR, "~/out", dict.fromkeys(names, one), place, Silent())
        except UserError:
            continue
        assert all((place / name).read_bytes() == b"x" for name in names)


RESULTS_TOLD = {"result": 1, "kit": "0" * 64, "kd2edge": "1", "target_name": "t", "versions": {}, "files": {}}


@pytest.mark.parametrize("device", ['{"a":' * 400 + "1" + "}" * 400, '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}'])
def test_a_result_that_could_not_be_written_again_is_refused(device: str) -> None:
    text = json.dumps(RESULTS_TOLD)[:-1] + f', "device": {device}}}'
    with pytest.raises(UserError, match="cannot be read"):
        read_result(text.encode())


@pytest.mark.parametrize(
    ("part", "instead"),
    [('"WHEN"', '"\\ud800"'), ('"WHEN"', "[" * 100_000), ('"device":{}', '"device":{"mhz":[1e308]}')],
)
def test_a_report_that_could_not_be_written_or_drawn_is_refused(part: str, instead: str, tmp_path: Path) -> None:
    result = Result(**{**RESULTS_TOLD, "device": {}, "report": "r"})
    kit = new_kit("t", ORT)
    suite: Any = {"about": "s", "rules": ()}
    made = Kit.model_validate({**kit.model_dump(), "suite": suite, "suite_name": "s"})
    row = Row(role="fp32", file="/there", sha256="0" * 64, precision="fp32", provider="", numbers={})
    report = Report(created="WHEN", command="", target="t", device={}, versions={}, suite_name="s", suite=suite,
                    rows=(row,))  # fmt: skip
    (tmp_path / "r").write_text(report.model_dump_json().replace(part, instead))
    with pytest.raises(UserError, match=r"written as a report|not a kd2edge report|no measurement"):
        _believed(Done(made, result, tmp_path), made, [])


@pytest.fixture
def back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Artifact, Path]:
    """A model, and the results of a kit that was made of it for the target `there`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = given.model(tmp_path)
    (tmp_path / "there.yaml").write_text(json.dumps(ORT.model_dump(mode="json")))
    monkeypatch.setattr(remote, "places_of", lambda target: ())
    with pytest.raises(remote.KitWritten):
        export_elsewhere(model.path, brought(kit=tmp_path / "kit"), target=str(tmp_path / "there.yaml"))
    digest = hashlib.sha256((tmp_path / "kit" / "kit.json").read_bytes()).hexdigest()
    results = tmp_path / "kit" / RESULTS
    results.mkdir()
    (results / "e").write_bytes(b"engine")
    one = Made(role="fp32", parent=model.manifest.sha256, unproved="no GPU")
    result = Result(kit=digest, kd2edge=remote_kit.remembered(digest).kd2edge, target_name="there", device={},
                    versions={}, made=(one,), files={"e": file_of(results / "e")})  # fmt: skip
    (results / RESULT).write_text(result.model_dump_json())
    return model, results


def brought(**where: Any) -> Elsewhere:
    return Elsewhere(Silent(), "again", **where)


def answered(results: Path, **said: Any) -> None:
    """Change what the result says of its one model, and have it name the files that are there."""
    told = json.loads((results / RESULT).read_text())
    told["made"][0] |= said
    files = {path.name: file_of(path).model_dump() for path in results.iterdir() if path.name != RESULT}
    (results / RESULT).write_text(json.dumps({**told, "files": files}))


def take_up(model: Artifact, results: Path) -> list[Artifact]:
    target = str(model.path.parent / "there.yaml")
    return export_elsewhere(model.path, brought(brought=results), target=target)


def test_an_engine_that_nobody_asked_for_is_refused(back: tuple[Artifact, Path]) -> None:
    model, results = back
    assert [one.path for one in take_up(model, results)] == [model.path]
    answered(results, engine="e")
    with pytest.raises(UserError, match="not an engine of each model"):
        take_up(model, results)


@pytest.mark.parametrize("how", ["right", "others", "none", "not finite", "half", "pickled", "a folder"])
def test_outputs_are_compared_here_with_those_of_the_file(
    how: str, back: tuple[Artifact, Path], tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    model, results = back
    right = run_onnx(model.path, np.load(results.parent / PROBE))
    wrong: dict[str, Any] = {
        "others": right[::-1].copy(),
        "not finite": right * np.float32("nan"),
        "none": right[:0],
        "half": right.astype(np.float16),
        "pickled": np.array([Evil(), None], object),
    }
    with (results / "out").open("wb") as file:
        np.save(file, wrong.get(how, right)) if how != "a folder" else np.savez(file, right)
    answered(results, outputs="out")
    if how == "right":
        take_up(model, results)
    else:
        with pytest.raises(UserError, match=r"does not give what|cannot be compared|holds no outputs"):
            take_up(model, results)
    assert not (tmp_path / "owned").exists()


def test_results_for_a_target_that_has_changed_since_are_refused(back: tuple[Artifact, Path]) -> None:
    model, results = back
    other = ORT.model_copy(update={"threads": 3})
    (model.path.parent / "there.yaml").write_text(json.dumps(other.model_dump(mode="json")))
    with pytest.raises(UserError, match="target there has changed"):
        take_up(model, results)


def test_a_kit_is_known_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else results of one that was interrupted at the very end would be a stranger's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = parcel(tmp_path / "made")
    monkeypatch.setattr(remote_kit, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), done(brought(kit=tmp_path / "kit"), made.kit, lambda *_: made):
        pass
    assert remote_kit.remembered(made.sha256) == made.kit


def test_of_results_that_came_with_a_kit_nothing_is_believed(back: tuple[Artifact, Path], tmp_path: Path) -> None:
    model, results = back
    text = (results.parent / "kit.json").read_bytes()
    (tmp_path / "work").mkdir()
    forged = (results / RESULT).read_bytes()
    found = perform(read_kit(text), hashlib.sha256(text).hexdigest(), results.parent, tmp_path / "work")
    assert found == hashlib.sha256((results / RESULT).read_bytes()).hexdigest()
    assert (results / RESULT).read_bytes() != forged
    assert not (results / "e").exists()
    assert [one.path for one in take_up(model, results)] == [model.path]


def test_work_that_has_lost_its_host_ends() -> None:
    code = "from kd2edge.edge import far; far._end_with_the_host(); print('works on')"
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == -signal.SIGKILL


def test_a_file_that_arrives_as_another_gets_no_name(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    request = {"do": "take", "folder": str(tmp_path / "room" / "kit"), "files": [["one", 5, digest]]}
    sent = json.dumps(request).encode() + b'\n{"index": 0, "from": 0}\n' + b"wrong"
    done = subprocess.run([sys.executable, str(exchange.__file__)], input=sent, capture_output=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"have": [[0, ""]]}, {"got": 0, "right": False}]
    assert list((tmp_path / "room" / "kit").iterdir()) == []


def test_a_wheel_that_cannot_be_linked_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, to: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "room" / "1").mkdir(parents=True)
    (tmp_path / "room" / "2").mkdir()
    (tmp_path / "room" / "1" / "wheel").write_bytes(b"x")
    monkeypatch.setattr(os, "link", link)
    exchange._borrow(str(tmp_path / "room" / "2"), [["wheel", 1, hashlib.sha256(b"x").hexdigest()]])
    assert list((tmp_path / "room" / "2").iterdir()) == []
