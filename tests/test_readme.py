"""Every `kd2edge` command of the README is run, in order, in one directory as a newcomer would, training cut short."""

import json
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from kd2edge import drawers
from kd2edge.kd import net
from kd2edge.schema import NetSpec
from tests import tables, tiny

pytestmark = [pytest.mark.kd, pytest.mark.slow]

README = tables.ROOT / "README.md"
SHORT = {
    "mine.yaml": [
        "train.epochs=1",
        "train.batch=8",
        "data.size=32",
        "quantize.images=16",
        "compare=[]",
        "suite=brief.yaml",
    ],
    "omniglot": [
        "train.epochs=1",
        "train.batch=512",
        "data.size=16",
        "compare=[]",
        "teacher=null",
        "method={name: plain}",
    ],
}
VERDICTS = {0, 1, 3}


def commands() -> list[list[str]]:
    lines = re.findall(r"^\$ (.*)$", README.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines if line.startswith("kd2edge ")]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README says the newcomer has: photos, a teacher, an ONNX file."""
    folder = tmp_path_factory.mktemp("newcomer")
    tiny.image_folder(folder / "photos", per_class=8, size=32)
    for split in ("train", "test"):
        (folder / "photos" / split / "blue").rename(folder / "photos" / split / "cat")
        (folder / "photos" / split / "cat" / "01.png").rename(folder / "photos" / split / "cat" / "1.jpg")
    torch.manual_seed(0)
    shape = net.Shape(3, (32, 32), 3)
    teacher = net.build(NetSpec.model_validate({"model": {"name": "resnet", "depth": 50}}), shape)
    torch.save(teacher.state_dict(), folder / "teacher.pt")
    suite = yaml.safe_load(drawers.find("suites", "model").read_text())
    (folder / "brief.yaml").write_text(yaml.safe_dump({**suite, "latency": {"seconds": 0.05, "warmup_ms": 5}}))
    small = net.build(NetSpec.model_validate({"model": {"name": "resnet_cifar", "arch": "8"}}), shape)
    with warnings.catch_warnings():  # the exporter's own
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net.Shipped(small, "logits").eval(),
            (torch.zeros(1, 3, 32, 32),),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(folder / "model.onnx")
    return folder


def shortened(command: list[str]) -> list[str]:
    verb, subject = command[1], command[2] if len(command) > 2 else ""
    if verb in ("ship", "distill"):
        command = command + [part for change in SHORT[subject] for part in ("--set", change)]
    return command + (["--suite", "brief.yaml"] if verb == "bench" else [])


def test_the_readme_names_the_verbs_it_shows() -> None:
    shown = {command[1] for command in commands()}
    assert {"distill", "quantize", "export", "bench", "gate", "ship", "predict", "doctor", "list", "copy"} <= shown


def test_every_command_of_the_readme_runs(room: Path) -> None:
    for command in commands():
        done = subprocess.run(
            [sys.executable, "-m", "kd2edge", *shortened(command)[1:]], cwd=room, capture_output=True, text=True
        )
        judged = command[1] in ("gate", "ship")
        assert done.returncode in (VERDICTS if judged else {0}), f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    assert json.loads((room / "verdict.json").read_text())["verdict"] in ("ship", "hold", "undecided")


def test_the_results_table_is_the_measured_one() -> None:
    text = README.read_text(encoding="utf-8")
    assert tables.put_results(text) == text


def test_the_readme_fits_two_screens() -> None:
    assert len(README.read_text().splitlines()) <= 100
