"""The verbs on models that onnx.helper made: what is deduced, what is refused; none but distill needs torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from kd2edge.artifact import open_artifact
from kd2edge.data import Preprocessing, normalize
from kd2edge.errors import UserError
from kd2edge.graph.load import load_model
from kd2edge.report.model import Report
from kd2edge.verbs.bench import bench
from kd2edge.verbs.export import export
from kd2edge.verbs.gate import gate
from kd2edge.verbs.models import CONVENTIONS, open_model, precision_of, preprocessing_of
from kd2edge.verbs.predict import Compared, predict, softmax
from kd2edge.verbs.quantize import quantize

SIDE = 16
CLASSES = ("dark", "light", "middle")
LATENCY = {"batch": 1, "warmup_ms": 1, "seconds": 0.01, "min_samples": 10}
RULES = [{"metric": "top1", "of": "int8", "versus": "fp32", "drop_at_most": 100, "why": "random weights"}]


class Said:
    """A progress that remembers its sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def start(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        pass

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def model(path: Path, channels: int = 3, outputs: int = len(CLASSES), batch: int | str = "batch") -> Path:
    """Conv, Relu, Conv, Relu, GlobalAveragePool, Flatten, Gemm with random weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, channels, 3, 3)) * 0.3,
        "w2": rng.standard_normal((32, 16, 3, 3)) * 0.1,
        "w3": rng.standard_normal((outputs, 32)),
        "b3": rng.standard_normal(outputs),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["c1"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["out"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(60 * label, 60 * label + 90, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "brief.yaml"
    path.write_text(yaml.safe_dump({"about": "short", "latency": LATENCY, "rules": RULES}))
    return str(path)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("raw", lambda pixel: pixel),
        ("zero-one", lambda pixel: pixel / 255),
        ("minus-one-one", lambda pixel: pixel / 127.5 - 1),
        ("imagenet", lambda pixel: (pixel / 255 - 0.485) / 0.229),
    ],
)
def test_each_convention_is_what_its_name_says(
    convention: str, expected: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], tmp_path: Path
) -> None:
    assert convention in CONVENTIONS
    opened = open_model(model(tmp_path / "m.onnx"), convention, lambda sentence: None)
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    pixels[0, 0, :, 0] = np.linspace(0, 255, SIDE).astype(np.uint8)
    stated = Preprocessing.model_validate(preprocessing_of(opened).model_dump())
    found = normalize(pixels, stated)[0, 0, 0]
    np.testing.assert_allclose(found, expected(pixels[0, 0, :, 0].astype(np.float64)), atol=2e-4)


@pytest.mark.parametrize(("channels", "color", "assumed"), [(3, "RGB", "imagenet"), (1, "L", "zero-one")])
def test_what_cannot_be_read_off_a_model_is_assumed_aloud(
    channels: int, color: str, assumed: str, tmp_path: Path
) -> None:
    said: list[str] = []
    opened = open_model(model(tmp_path / "m.onnx", channels), None, said.append)
    stated = preprocessing_of(opened)
    assert (stated.size, stated.channels, stated.color) == ((SIDE, SIDE), channels, color)
    assert f"{assumed} preprocessing is assumed" in said[0]


def test_four_channels_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 channels"):
        open_model(model(tmp_path / "m.onnx", channels=4), None, lambda sentence: None)


def test_a_convention_may_not_contradict_a_manifest(tmp_path: Path, images: Path) -> None:
    int8 = quantize(model(tmp_path / "m.onnx"), data=images)
    with pytest.raises(UserError, match="has a manifest"):
        quantize(int8.path, preprocess="raw")
    with pytest.raises(UserError, match="There is no preprocessing 'rgb'"):
        quantize(tmp_path / "m.onnx", data=images, preprocess="rgb")


def test_without_images_there_is_nothing_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no data set") as fault:
        quantize(model(tmp_path / "m.onnx"))
    assert fault.value.hint is not None
    assert "--data" in fault.value.hint


def test_a_model_is_a_classifier_of_the_datas_classes_unless_it_is_said_to_be_an_embedding(
    tmp_path: Path, images: Path
) -> None:
    fitting, other = model(tmp_path / "m.onnx"), model(tmp_path / "e.onnx", outputs=8)
    classifier = quantize(fitting, data=images).manifest
    assert (classifier.task, classifier.output, classifier.classes) == ("classification", "logits", CLASSES)
    for task in (None, "classification"):
        for verb in (quantize, export, lambda path, **options: bench([path], **options)):
            with pytest.raises(UserError, match="8 outputs, but the data has 3 classes") as fault:
                verb(other, data=images, task=task)
            assert "--task verification" in str(fault.value.hint)
    for path in (fitting, other):
        embedding = quantize(path, data=images, task="verification").manifest
        assert (embedding.task, embedding.output, embedding.classes) == ("verification", "embedding", None)
    with pytest.raises(UserError, match="says verification, not classification"):
        bench([tmp_path / "e.int8-ort-x86.onnx"], task="classification")
    with pytest.raises(UserError, match="There is no task 'detection'"):
        quantize(fitting, data=images, task="detection")


def test_calibration_takes_training_images_and_says_so_where_there_are_none(tmp_path: Path, images: Path) -> None:
    source, said = model(tmp_path / "m.onnx"), Said()
    made = quantize(source, data=images / "test", progress=said)
    assert made.manifest.details["images"] == 18
    assert any("also judged on" in sentence for sentence in said.sentences)
    ranges = load_model(made.path).SerializeToString()
    made = quantize(source, data=images, calibrator="minmax")
    assert made.manifest.details["calibrator"] == "minmax"
    assert load_model(made.path).SerializeToString() != ranges


def test_the_same_quantization_twice_is_the_same_file(tmp_path: Path, images: Path) -> None:
    source = model(tmp_path / "m.onnx")
    assert quantize(source, data=images).manifest.sha256 == quantize(source, data=images).manifest.sha256


def test_each_flavour_has_its_own_int8_and_an_export_takes_the_targets(tmp_path: Path, images: Path) -> None:
    source = model(tmp_path / "m.onnx")
    x86, nvidia = quantize(source, data=images), quantize(source, "nvidia-rtx", images)
    assert x86.path != nvidia.path
    assert (x86.manifest.flavour, nvidia.manifest.flavour) == ("ort-x86", "tensorrt")
    made = export(source, target="nvidia-rtx", data=images, out=tmp_path / "out")
    assert [one.manifest.precision for one in made] == ["fp32", "fp16", "int8"]
    assert made[-1].manifest.sha256 == nvidia.manifest.sha256
    assert [precision_of(load_model(one.path)) for one in made] == ["fp32", "fp16", "int8"]
    for one in made:
        assert one.path.parent == tmp_path / "out"
        assert open_artifact(one.path).manifest.parity is not None


def test_an_export_passes_over_the_int8_of_another_model(tmp_path: Path, images: Path) -> None:
    source, said = model(tmp_path / "m.onnx"), Said()
    quantize(source, data=images)
    model(source, batch=1)
    made = export(source, data=images, progress=said)
    assert [one.manifest.precision for one in made] == ["fp32"]
    assert any("was made of another model" in sentence for sentence in said.sentences)


def test_an_export_frees_a_fixed_batch(tmp_path: Path, images: Path) -> None:
    (made,) = export(model(tmp_path / "m.onnx", batch=1), data=images)
    given = onnx.load(str(made.path)).graph.input[0].type.tensor_type.shape.dim[0]
    assert given.dim_param


def test_what_no_export_can_do_is_refused(tmp_path: Path, images: Path) -> None:
    source = model(tmp_path / "m.onnx")
    int8 = quantize(source, data=images)
    with pytest.raises(UserError, match="is INT8 already"):
        export(int8.path)
    with pytest.raises(UserError, match="quantized already"):
        quantize(int8.path)
    with pytest.raises(UserError, match="there is no engine to build"):
        export(source, trt=True, target="onnx-cpu", data=images)
    int8.path.write_bytes(int8.path.read_bytes() + b" ")
    with pytest.raises(UserError, match="sha256 differs"):
        bench([int8.path])


def test_two_files_of_one_role_are_told_apart_by_name(tmp_path: Path, images: Path, suite: str) -> None:
    one, other = model(tmp_path / "one.onnx"), model(tmp_path / "other.onnx", batch=1)
    report = bench([one, other], suite, data=images, out=tmp_path / "r.json")
    assert [row.role for row in report.rows] == ["fp32", "other"]
    assert [row.faults for row in report.rows] == [(), ()]
    assert gate(tmp_path / "r.json").verdict == "hold"  # there is no int8 row to judge
    bench([one], suite, data=images, out=tmp_path / "r.json")
    assert not (tmp_path / "verdict.json").exists()  # which was on the report before


def test_a_single_embedding_and_several(tmp_path: Path, images: Path) -> None:
    source = model(tmp_path / "m.onnx", outputs=8)
    made = quantize(source, data=images, task="verification")
    files = sorted((images / "test" / "dark").iterdir())[:3]
    found = predict(made.path, [files[0], files[1], files[0]])
    assert isinstance(found, Compared)
    cosine = np.array(found.cosine)
    np.testing.assert_allclose(cosine, cosine.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-6)
    assert cosine[0, 2] == pytest.approx(1, abs=1e-6)
    assert found.same is None
    one = predict(made.path, files[:1])
    assert isinstance(one, Compared)
    assert one.norms[0] == pytest.approx(found.norms[0])


def test_softmax_sums_to_one_and_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([1e4, 1e4, -1e4])), [0.5, 0.5, 0])
    np.testing.assert_allclose(softmax(np.log([1.0, 2.0, 7.0])), [0.1, 0.2, 0.7])


def test_without_torch_all_but_distill_works(tmp_path: Path, images: Path, suite: str) -> None:
    """One process in which `import torch` fails runs every verb and prints how each ended."""
    source = model(tmp_path / "m.onnx")
    commands: list[list[Any]] = [
        ["list", "methods"],
        ["show", "models", "resnet_cifar"],
        ["doctor"],
        ["quantize", source, "--data", images],
        ["export", source, "--data", images],
        ["bench", "m.fp32.onnx", "m.int8-ort-x86.onnx", "--suite", suite],
        ["gate", "report.json"],
        ["predict", "m.fp32.onnx", images / "test" / "dark" / "0.png"],
        ["distill", "omniglot", "--run", "r"],
        ["ship", "--run", "r"],
    ]
    lines = [[str(word) for word in command] for command in commands]
    code = (
        "import json, sys; sys.modules['torch'] = None\n"
        "from typer.testing import CliRunner; from kd2edge.cli import app\n"
        f"done = [CliRunner().invoke(app, line) for line in {lines!r}]\n"
        "print(json.dumps([[one.exit_code, one.output] for one in done]))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    ends = json.loads(process.stdout)
    assert [end[0] for end in ends] == [0, 0, 0, 0, 0, 0, 0, 0, 2, 2], ends
    assert all("pip install " in end[1] and "[train]'" in end[1] for end in ends[-2:])
    assert not (tmp_path / "r").exists()
    assert Report.model_validate_json((tmp_path / "report.json").read_text()).command.startswith("kd2edge bench ")
