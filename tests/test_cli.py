"""The command line: small enough for one screen, quick to start, and with an exit code for every way to end."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kd2edge.cli import app
from kd2edge.cli.terminal import Terminal
from kd2edge.edge.check import Check
from kd2edge.errors import UserError
from kd2edge.report.model import Number, Report, Row, write_json
from kd2edge.schema import Rule, Suite
from kd2edge.verbs import distill, shelf, study
from kd2edge.verbs.doctor import base_is_broken, doctor

SHIPS = Number(value=90, unit="%", low=85, high=95)
UNSURE = Number(value=90, unit="%", low=70, high=95)
FAILS = Number(value=70, unit="%", low=65, high=75)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def document(*arguments: str) -> Any:
    """The last line of stdout, which is the one JSON document."""
    return json.loads(run(*arguments, "--json").stdout.splitlines()[-1])


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_fits_one_small_screen() -> None:
    lines = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout.splitlines()
    assert len(lines) <= 23  # the prompt needs a line too
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith("...") for line in lines[1:]), "a command's line is cut"


def test_help_waits_for_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "numpy", "matplotlib", "PIL", "pydantic"}
    code = (
        "import sys\nfrom kd2edge.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    assert python(code, tmp_path).stdout.splitlines()[-1] == "[]"


def test_every_verb_has_json_and_a_help_line() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__
        name = command.name or command.callback.__name__
        assert "--json" in run(name, "--help").stdout


def test_every_name_that_is_listed_can_be_shown_and_copied(tmp_path: Path) -> None:
    for kind in shelf.KINDS:
        found = document("list", kind)
        assert found, f"nothing in {kind}"
        for number, (name, about) in enumerate(found.items()):
            assert about, f"{kind} {name} says nothing of itself"
            shown = document("show", kind, name)["text"]
            to = tmp_path / f"{kind}{number}"
            assert document("copy", kind, name, str(to)) == {"file": str(to)}
            assert to.read_text() == shown


def test_copy_never_overwrites(tmp_path: Path) -> None:
    there = tmp_path / "kd.py"
    there.write_text("mine")
    assert run("copy", "methods", "kd", str(tmp_path)).exit_code == 2
    assert there.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "recipe"], "did you mean 'recipes'?"),
        (["show", "targets", "onnx-gpu"], "did you mean 'onnx-cpu'?"),
        (["show", "methods", "k_d"], "did you mean 'kd'?"),
        (["study", "omniglot-verifcation", "--table"], "did you mean 'omniglot-verification'?"),
        (["distill", "no-such-recipe"], "There is no 'no-such-recipe' among the recipes"),
        (["gate", "nothing-here"], "There is no report nothing-here"),
        (["quantize", "nothing.onnx"], "There is no ONNX file nothing.onnx"),
        (["bench", "nothing.onnx"], "There is no ONNX file nothing.onnx"),
    ],
)
def test_what_is_asked_wrongly_ends_with_one_sentence_and_exit_2(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output
    failure = document(*arguments)
    assert says in failure["error"]
    assert failure["exit"] == 2


def test_an_unknown_option_is_exit_2_too() -> None:
    assert run("bench", "--no-such-option").exit_code == 2


def raising(error: BaseException) -> Callable[[str], dict[str, str]]:
    def list_names(kind: str) -> dict[str, str]:
        raise error

    return list_names


def test_a_defect_is_exit_4_with_its_traceback_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelf, "list_names", raising(RuntimeError("the roof\nis leaking")))
    result = run("list")
    (log,) = tmp_path.glob("kd2edge-crash-*.log")
    assert result.exit_code == 4
    assert "RuntimeError: the roof is leaking" in result.stderr
    assert log.name in result.stderr
    assert "Traceback" not in result.output
    assert "Traceback" in log.read_text()


def test_a_crash_log_goes_to_the_temporary_folder_where_the_current_one_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shelf, "list_names", raising(RuntimeError("lost")))
    assert run("list").exit_code == 4
    monkeypatch.chdir(tmp_path)
    assert len(list(tmp_path.glob("kd2edge-crash-*.log"))) == 1


def test_a_full_disk_is_no_defect_however_it_is_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrapped = RuntimeError("unexpected pos 64 vs 0")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")
    monkeypatch.setattr(shelf, "list_names", raising(wrapped))
    result = run("list")
    assert result.exit_code == 2
    assert "The disk is full: weights.safetensors" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_exit_130_and_tells_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "distill", interrupted)
    result = run("distill", "omniglot", "--run", "mine")
    assert result.exit_code == 130
    assert "kd2edge distill --run mine --resume" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (["distill", "omniglot", "--run", "m y", "--seeds", "3"], "kd2edge distill --run 'm y' --seeds 3 --resume"),
        (["study", "omniglot-verification", "--row", "kd", "--row", "plain", "--seed", "0"],
         "kd2edge study omniglot-verification --row kd --row plain --seed 0"),
    ],
)  # fmt: skip
def test_what_goes_on_after_an_interruption_is_the_same_work(
    arguments: list[str], again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "distill_seeds", interrupted)
    monkeypatch.setattr(study, "study", interrupted)
    result = run(*arguments)
    assert result.exit_code == 130
    assert f"continue with: {again}\n" in result.stderr


def test_a_user_error_shows_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "list_names", raising(UserError("It is [locked].", "use the key")))
    result = run("list")
    assert "It is [locked].\n  hint: use the key" in result.stderr
    assert document("list") == {"error": "It is [locked].", "hint": "use the key", "exit": 2}


@pytest.mark.parametrize(("number", "code", "word"), [(SHIPS, 0, "ship"), (FAILS, 1, "hold"), (UNSURE, 3, "undecided")])
def test_the_gate_ends_as_it_judges(number: Number, code: int, word: str, tmp_path: Path) -> None:
    row = Row(role="fp32", file="m.onnx", sha256="0", precision="fp32", provider="CPU", numbers={"top1": number})
    suite = Suite(about="one rule", rules=(Rule(metric="top1", of="fp32", at_least=80, why="of no use below"),))
    report = Report(
        created="2026-01-01T00:00:00Z",
        command="kd2edge bench m.onnx",
        target="onnx-cpu",
        device={"cpu": "a processor"},
        versions={"kd2edge": "0"},
        suite_name="one",
        suite=suite,
        rows=(row,),
    )
    write_json(report, tmp_path / "report.json")
    result = run("gate", str(tmp_path / "report.json"))
    assert result.exit_code == code
    assert word.upper() in result.stdout
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == word
    assert word.upper() in (tmp_path / "report.html").read_text()


def test_without_a_terminal_a_stage_is_a_line_at_its_beginning_and_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.start("student", 1000)
    for step in range(1000):
        terminal.advance(1, epoch=f"{1 + step // 500}/2", loss=1 / (1 + step), images_per_second=1234.5)
    terminal.say("done [with] it")
    terminal.answer({"a": 1, "b": float("inf")})
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "student: 1000 steps",
        "student: 1000/1000 epoch 2/2, loss 0.001, 1234 img/s",
        "done [with] it",
    ]
    assert out == '{"a":1,"b":null}\n'


def test_doctor_finds_the_base_whole_and_proves_onnxruntime_by_running_it() -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    found = {check.name: check for check in doctor()}
    assert not base_is_broken(list(found.values()))
    assert "CPUExecutionProvider computes" in found["onnxruntime"].detail
    assert found["base packages"].says == "ok"
    assert all(check.mend for check in found.values() if check.needed and check.says != "ok")


def test_only_what_is_needed_breaks_the_base() -> None:
    optional = Check(name="torch", says="missing", detail="")
    needed = Check(name="onnxruntime", says="broken", detail="", needed=True)
    assert not base_is_broken([optional])
    assert base_is_broken([optional, needed])
