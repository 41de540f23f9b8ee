"""Two classes and classifiers without a bias, from training to the verdict: the least that a classifier can be."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from kd2edge.errors import UserError
from kd2edge.report.model import Report, read_report
from kd2edge.run import open_run
from kd2edge.verbs.distill import distill
from kd2edge.verbs.ship import ship
from tests import tiny

pytestmark = pytest.mark.kd

BARE = '''"""A net of another library, as it were: it pools by itself and its classifier has no bias."""

from torch import nn

from kd2edge.kd.foreign import ForeignBackbone
from kd2edge.kd.net import Shape
from kd2edge.shelves import PluginConfig


class Bare(ForeignBackbone):
    class Config(PluginConfig):
        width: int = 16

    def __init__(self, config: Config, shape: Shape) -> None:
        stem = (nn.Conv2d(shape.channels, config.width, 3, 2, 1, bias=False), nn.BatchNorm2d(config.width), nn.ReLU())
        last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(config.width, shape.classes, bias=False))
        super().__init__(config, shape, nn.Sequential(*stem, *last), classifier="5")
'''
SUITE = {
    "about": "small numbers, short measurements",
    "latency": {"batch": 1, "warmup_ms": 1, "seconds": 0.01, "min_samples": 10},
    "rules": [{"metric": "top1", "of": "fp32", "at_least": 50, "why": "guessing is no better"}],
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on blue against red."""
    root = tmp_path_factory.mktemp("two")
    images = tiny.image_folder(root / "images")
    for split in ("train", "test"):
        shutil.rmtree(images / split / "green")
    (root / "bare.py").write_text(BARE)
    (root / "brief.yaml").write_text(yaml.safe_dump(SUITE))
    tree = tiny.recipe(images, {"name": "th_kd"}, suite=str(root / "brief.yaml"), compare=["plain", "kd"])
    tree["teacher"]["model"] = {"name": str(root / "bare.py"), "width": 24}
    tree["student"]["model"] = {"name": str(root / "bare.py")}
    tree["train"] = {**tree["train"], "epochs": 4}
    (root / "two.yaml").write_text(yaml.safe_dump(tree, default_flow_style=None))
    ship(str(root / "two.yaml"), (), root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def report(shipped: Path) -> Report:
    return read_report(shipped / "report.json")


def test_every_row_is_measured_without_faults(report: Report) -> None:
    assert [row.role for row in report.rows] == ["teacher", "plain", "kd", "fp32", "int8"]
    assert not any(row.faults for row in report.rows)


def test_top1_is_told_and_top5_is_not(report: Report) -> None:
    for row in report.rows:
        assert "top5" not in row.numbers
        top1, times = row.numbers["top1"].value, row.numbers["top1_over_chance"].value
        assert top1 is not None
        assert times == pytest.approx(top1 / 50)
    fp32 = report.row("fp32")
    assert fp32 is not None
    assert (fp32.numbers["top1"].value or 0) >= 90, "the colours are far apart"


@pytest.mark.parametrize(("role", "width"), [("fp32", 16), ("teacher", 24)])
def test_what_ships_has_two_logits_and_no_bias(shipped: Path, role: str, width: int) -> None:
    made = open_run(shipped).artifact(role)
    assert made.manifest.classes == ("blue", "red")
    weights = load_file(shipped / f"{role}.safetensors")
    assert {key: value.shape for key, value in weights.items() if key.startswith("head.")} == {
        "head.weight": (2, width)
    }
    with np.load(made.path.with_suffix(".probe.npz")) as probe:
        assert probe["reference"].shape[1] == 2


def test_a_single_class_is_refused_before_training(tmp_path: Path) -> None:
    images = tiny.image_folder(tmp_path / "images", per_class=4)
    for split in ("train", "test"):
        for name in ("green", "red"):
            shutil.rmtree(images / split / name)
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(tiny.recipe(images, {"name": "plain"}, teacher=None)))
    with pytest.raises(UserError, match="single class to learn, 'blue'"):
        distill(str(tmp_path / "one.yaml"), (), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.safetensors"))
