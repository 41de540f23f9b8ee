"""The page on teachers: its sections of recipes are valid, and its commands are run, nets and training cut short."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from typer.testing import CliRunner

from kd2edge.artifact import open_artifact
from kd2edge.cli import app
from kd2edge.graph.run import run_onnx
from kd2edge.kd import net
from kd2edge.kd.check import plugin_faults
from kd2edge.schema import NetSpec, Recipe, Teacher
from tests import tiny
from tests.test_docs import fences
from tests.test_kd_onnx_teacher import face, images

pytestmark = [pytest.mark.kd, pytest.mark.slow]

PAGE = list(fences("bring-your-own-teacher.md"))
COMMANDS = [shlex.split(line) for language, _, text in PAGE if language == "sh" for line in text.splitlines()]
SMALL = {"name": "resnet_cifar", "arch": "8", "widths": [8, 8, 8]}
IRESNET = {"name": "iresnet", "multiplier": 0.125, "embedding": 24}
SHORT = ["data.size=16", "train.epochs=0", "train.batch=8", f"student.model={json.dumps(SMALL)}", "student.neck=gap"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's reader has: photos, people, a published backbone, and a classifier and a face net as ONNX."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("photos", "people"):
        tiny.image_folder(folder / name, per_class=4, size=16)
    torch.manual_seed(0)
    backbone = net.build(NetSpec.model_validate({"model": IRESNET}), net.Shape(3, (16, 16), 3)).backbone
    torch.save(backbone.state_dict(), folder / "backbone.pth")
    onnx.save(face(width=3), str(folder / "teacher.onnx"))
    onnx.save(face(1), str(folder / "face.onnx"))
    for _, file, text in PAGE:
        if file:
            (folder / file).write_text(text, encoding="utf-8")
    return folder


def shortened(command: list[str], run: str) -> list[str]:
    """A command of the page with small nets, by options that come before its own and yield to them."""
    if command[1] != "distill":
        return command[1:]
    own = ["compare=[]"] if command[2] == "mine.yaml" else [f"teacher.model={json.dumps(IRESNET)}"]
    options = [part for change in (*SHORT, *own) for part in ("--set", change)]
    return [*command[1:3], *options, *command[3:], "--run", run]


def test_every_command_runs_and_the_teacher_is_the_one_that_was_brought(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(room)
    taught = [command for command in COMMANDS if command[1] == "distill"]
    assert [Path(command[2]).stem for command in taught] == ["faces", "mine", "faces"]
    for command in COMMANDS:
        number = taught.index(command) if command in taught else None
        done = CliRunner().invoke(app, shortened(command, f"run-{number}"))
        assert done.exit_code == 0, f"{shlex.join(command)}\n{done.output}"
    found = run_onnx(room / "run-1" / "teacher.onnx", images())
    np.testing.assert_allclose(found, run_onnx(room / "teacher.onnx", images()), rtol=1e-3, atol=1e-4)
    for number in (0, 2):
        details = open_artifact(room / f"run-{number}" / "teacher.onnx").manifest.details
        assert "rebuilt from class centres" in str(details["head"])


@pytest.mark.parametrize("text", [text for language, file, text in PAGE if language == "yaml" and not file])
def test_a_section_is_valid(text: str) -> None:
    tree: dict[str, Any] = yaml.safe_load(text)
    assert list(tree) == ["teacher"]
    Teacher.model_validate(tree["teacher"])
    assert plugin_faults(tree) == []


def test_the_recipe_is_valid() -> None:
    (text,) = (text for _, file, text in PAGE if file == "faces.yaml")
    tree = yaml.safe_load(text)
    Recipe.model_validate(tree)
    assert plugin_faults(tree) == []
