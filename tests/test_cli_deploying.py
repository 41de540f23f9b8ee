"""`export`, `bench` and `keys` on the command line: their help fits a screen, and an interruption says how to go on."""

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from kd2edge.cli import app


@pytest.mark.parametrize("command", ["export", "bench", "keys"])
def test_its_help_fits_a_screen(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], terminal_width=80)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert len(lines) < 24, "\n".join(lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("verb", ["export", "bench"])
@pytest.mark.parametrize("where", [["--kit", "a kit"], ["--from", "it's/results"], ["--on", "ssh://orin"], []])
def test_after_an_interruption_the_same_command_goes_on(verb: str, where: list[str], monkeypatch: Any) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kd2edge.cli.deploying._place", interrupted)
    words = [verb, "a model.onnx", *(["--trt"] if verb == "export" else []), "--target", "onnx-cpu", *where]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 130
    told = json.loads(done.stdout.splitlines()[-1])["hint"].removeprefix("continue with: ")
    assert shlex.split(told) == ["kd2edge", *words]


@pytest.mark.parametrize(
    ("words", "asked"), [(["--onnx"], False), ([], False), (["--trt"], True), (["--on", "ssh://board"], True)]
)
def test_a_targets_own_address_is_for_engines(words: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for ONNX files alone gets them here."""
    went: list[str] = []

    def gone(*_: object) -> None:
        went.append("there")
        raise KeyboardInterrupt

    def stayed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kd2edge.cli.deploying._place", gone)
    monkeypatch.setattr("kd2edge.verbs.export.export", stayed)
    CliRunner().invoke(app, ["export", "model.onnx", "--target", "jetson-orin-nano", *words])
    assert bool(went) is asked
