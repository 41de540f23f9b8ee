"""The page on training does what it says: its recipe trains, its command tells, its script reads the log."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd2edge.kd.feed import AHEAD, AHEAD_BYTES
from kd2edge.schema import Recipe, Teacher, Train
from kd2edge.schema.section import Section
from tests import tiny

pytestmark = pytest.mark.kd
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_its_example_runs_from_top_to_bottom(tmp_path: Path) -> None:
    fences = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert [language for language, _, _ in fences] == ["yaml", "sh", "text", "python"]
    tiny.image_folder(tmp_path / "photos")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    told = {}
    for language, file, text in fences:
        if file:
            (tmp_path / file).write_text(text)
        if language == "text" or file:
            continue
        kd2edge = f'kd2edge() {{ "{sys.executable}" -m kd2edge "$@"; }}\n'
        command = {"sh": ["bash", "-ec", kd2edge + text], "python": [sys.executable, "-c", text]}[language]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told[language] = done.stdout
    assert "waiting for images" in told["sh"]
    assert "Run: quick" in told["sh"]
    assert [line.split(":")[0] for line in told["python"].splitlines()] == ["epoch 1", "epoch 2"]
    assert list((tmp_path / "quick" / "log" / "tensorboard").rglob("*tfevents*"))


def test_its_keys_and_figures_are_those_of_the_code() -> None:
    keys = re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE)
    sections: dict[str, type[Section]] = {"train": Train, "teacher": Teacher}
    for key in keys:
        section, _, name = key.rpartition(".")
        assert name in sections.get(section, Recipe).model_fields, key
    assert {"train.precision", "train.compile", "train.accumulate", "train.ema", "teacher.remember", "track"} <= {*keys}
    assert (AHEAD, AHEAD_BYTES >> 20) == (4, 256)
    assert "up to four batches, and 256 MB, ahead" in TEXT
