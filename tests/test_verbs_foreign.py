"""A model that kd2edge has never seen, with a folder of images: quantize, export, bench, gate and predict, for real."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import yaml
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from kd2edge import drawers
from kd2edge.artifact import open_artifact
from kd2edge.cli import app
from kd2edge.report.model import read_report

pytestmark = pytest.mark.kd

SHAPES = ("circle", "cross", "square", "stripes")
SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN, TEST = 60, 150  # images of each shape; 600 in the test split settle an agreement of 97 %


def drawn(shape: str, rng: np.random.Generator) -> Image.Image:
    """A bright shape at a random place and of a random size, in noise."""
    noise = rng.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(noise, "RGB")
    pen = ImageDraw.Draw(image)
    x, y = (int(v) for v in rng.integers(2, 12, 2))
    size = int(rng.integers(14, 18))
    color = tuple(int(v) for v in rng.integers(170, 256, 3))
    box = (x, y, x + size, y + size)
    if shape == "circle":
        pen.ellipse(box, outline=color, width=3)
    elif shape == "square":
        pen.rectangle(box, fill=color)
    elif shape == "cross":
        pen.line((x, y + size // 2, x + size, y + size // 2), fill=color, width=3)
        pen.line((x + size // 2, y, x + size // 2, y + size), fill=color, width=3)
    else:
        for row in range(0, size, 5):
            pen.line((x, y + row, x + size, y + row), fill=color, width=2)
    return image


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, a trained model.onnx from torch's own exporter, and a suite that takes little time."""
    root = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for shape in SHAPES:
            folder = root / "images" / split / shape
            folder.mkdir(parents=True)
            for number in range(count):
                drawn(shape, rng).save(folder / f"{number:03}.png")
    train_and_export(root)
    suite = drawers.read_suite("model").model_dump(mode="json", exclude_none=True)
    suite["latency"] = {"batch": 1, "warmup_ms": 5, "seconds": 0.05, "min_samples": 662}
    (root / "brief.yaml").write_text(yaml.safe_dump(suite))
    return root


def train_and_export(root: Path) -> None:
    """A small net with batch norm, trained with plain torch on ImageNet-normalised images; nothing of kd2edge."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    images, labels = loaded(root / "images" / "train")
    x = ((torch.from_numpy(images) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels)
    blocks: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        blocks += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(SHAPES)))
    learner = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(12):
        for part in torch.randperm(len(x)).reshape(-1, 30):
            learner.zero_grad()
            nn.functional.cross_entropy(net(x[part]), y[part]).backward()  # type: ignore[no-untyped-call]
            learner.step()
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own insides
        torch.onnx.export(
            net,
            (x[:2],),
            str(root / "model.onnx"),
            dynamo=True,
            opset_version=18,
            verbose=False,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )


def loaded(folder: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    files = [(file, label) for label, shape in enumerate(SHAPES) for file in sorted((folder / shape).iterdir())]
    images = np.stack([np.asarray(Image.open(file), np.float32) for file, _ in files])
    return images, np.array([label for _, label in files])


@pytest.fixture(scope="module")
def compressed(place: Path) -> Path:
    """The place after quantize and export."""
    model, images = str(place / "model.onnx"), str(place / "images")
    run("quantize", model, "--data", images)
    run("export", model, "--data", images)
    return place


def run(*arguments: str, code: int = 0) -> str:
    """What a command of the tool prints on stdout."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.stdout


def document(*arguments: str, code: int = 0) -> Any:
    """The JSON document on the last line of a command's stdout."""
    return json.loads(run(*arguments, "--json", code=code).splitlines()[-1])


def models(place: Path) -> list[str]:
    return [str(place / "model.fp32.onnx"), str(place / "model.int8-ort-x86.onnx")]


def test_what_is_assumed_of_a_model_without_manifest_is_told(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    told = run("quantize", str(place / "model.onnx"), "--data", str(place / "images"), "--out", str(out))
    assert "imagenet preprocessing is assumed" in told
    assert "INT8 holds 3 of 4 layers" in told
    assert "cosine" in told


def test_an_int8_manifest_tells_its_parent_its_images_and_its_parity(compressed: Path) -> None:
    manifest = open_artifact(compressed / "model.int8-ort-x86.onnx").manifest
    assert manifest.parents == (hashlib.sha256((compressed / "model.onnx").read_bytes()).hexdigest(),)
    assert (manifest.task, manifest.output, manifest.classes) == ("classification", "logits", SHAPES)
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.mean == (0.485, 0.456, 0.406)
    assert manifest.details["calibrator"] == "mse"
    assert 0 < manifest.details["images"] <= TRAIN * len(SHAPES)
    assert manifest.parity is not None
    assert manifest.parity["cosine_mean"] > 0.99


def test_an_export_is_equal_to_its_source_and_keeps_a_free_batch(compressed: Path) -> None:
    images, labels = loaded(compressed / "images" / "test")
    x = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2).astype(np.float32)
    ours, theirs = (
        ort.InferenceSession(str(compressed / name)).run(None, {"input": x})[0]
        for name in ("model.fp32.onnx", "model.onnx")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (ours.argmax(1) == labels).mean() > 0.9


def test_a_foreign_model_goes_all_the_way_to_a_verdict(compressed: Path) -> None:
    report = compressed / "report.json"
    table = run("bench", *models(compressed), "--suite", str(compressed / "brief.yaml"), "--out", str(report))
    assert "fp32" in table
    rows = {row.role: row.numbers for row in read_report(report).rows}
    assert list(rows) == ["fp32", "int8"]
    assert (rows["fp32"]["top1"].value or 0) > 90
    assert rows["fp32"]["top1"].n == TEST * len(SHAPES)
    assert rows["fp32"]["parameters"].value == 27 * 32 + 32 + 288 * 64 + 64 + 576 * 128 + 128 + 128 * 4 + 4
    assert rows["int8"]["macs"].value == 16**2 * 27 * 32 + 8**2 * 288 * 64 + 4**2 * 576 * 128 + 128 * 4
    verdict = document("gate", str(report))
    assert verdict["verdict"] == "ship"
    assert json.loads((compressed / "verdict.json").read_text()) == verdict
    assert "SHIP" in (compressed / "report.html").read_text()


def test_a_model_that_is_read_in_the_wrong_order_of_classes_does_not_ship(place: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for shape, other in zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True):
            (tmp_path / "images" / split / other).symlink_to(place / "images" / split / shape)
    model, images, int8 = str(place / "model.onnx"), str(tmp_path / "images"), str(tmp_path / "int8.onnx")
    run("quantize", model, "--data", images, "--out", int8)
    suite, report = str(place / "brief.yaml"), str(tmp_path / "report.json")
    run("bench", model, int8, "--data", images, "--suite", suite, "--out", report)
    verdict = document("gate", report, code=1)
    held = [finding["rule"]["metric"] for finding in verdict["findings"] if finding["says"] == "hold"]
    assert held == ["top1_over_chance"], "INT8 is as wrong as FP32, and agrees with it"


def test_images_are_classified(compressed: Path) -> None:
    image = compressed / "images" / "test" / "square" / "001.png"
    (found,) = document("predict", models(compressed)[0], str(image))
    assert found["top"][0][0] == "square"
    assert sum(probability for _, probability in found["top"]) == pytest.approx(1)


def test_engines_are_built_for_nvidia_without_a_gpu(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    model, images, out = str(place / "model.onnx"), str(place / "images"), str(tmp_path)
    int8 = str(tmp_path / "model.int8-tensorrt.onnx")
    run("quantize", model, "--data", images, "--target", "nvidia-rtx", "--out", int8)
    made = document("export", model, "--onnx", "--trt", "--data", images, "--target", "nvidia-rtx", "--out", out)
    engines = [one for one in made if one["kind"] == "engine"]
    assert [one["precision"] for one in engines] == ["fp32", "fp16", "int8"]
    by_precision = {one["precision"]: one["sha256"] for one in made if one["kind"] == "onnx"}
    assert all(one["parents"] == [by_precision[one["precision"]]] for one in engines)
    assert all(Path(one["path"]).stat().st_size == one["bytes"] for one in engines)
