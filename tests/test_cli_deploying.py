"""`export`, `bench` and `keys` on the command line: their help fits a screen, and an interruption says how to go on."""

import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
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
    done = CliRunner().invoke(app, [verb, "a model.onnx", "--target", "onnx-cpu", *where, "--json"])
    assert done.exit_code == 130
    told = json.loads(done.stdout.splitlines()[-1])["hint"].removeprefix("continue with: ")
    assert shlex.split(told) == ["kd2edge", verb, "a model.onnx", "--target", "onnx-cpu", *where]


def test_onnx_runtime_is_told_to_keep_silent_on_the_far_side(tmp_path: Path) -> None:
    """And a board's own wish stands."""
    edge = tmp_path / "code" / "kd2edge" / "edge"
    edge.mkdir(parents=True)
    for folder in (edge, edge.parent):
        (folder / "__init__.py").touch()
    (edge / "far.py").write_text("import os; print(os.environ['ORT_DISABLE_TELEMETRY'])")
    here = f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"
    call = f"start.start({str(tmp_path)!r}, '0' * 64, {str(tmp_path / 'room')!r}, {{'wheels/{here}/x': 0}}, False)"
    code = f"import sys; from kd2edge.edge import start; start._unpacked = lambda *_: 'none'; {call}"
    wishes: tuple[tuple[dict[str, str], str], ...] = (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0"))
    for wish, heard in wishes:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wish)
        assert done.stdout.strip() == heard
