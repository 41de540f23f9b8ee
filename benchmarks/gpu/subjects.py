"""The three nets: the demo's student, MobileFaceNet and ResNet-50, each in FP32, FP16 and INT8 by kd2edge's own passes.

The last two have random weights: speed and parity are claimed, accuracy is not. Their graphs travel without weights,
which are drawn from a seed where they are needed: ResNet-50 in FP32 is 100 MB, its graph a tenth of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.quantize import quantize_model
from kd2edge.graph.topology import Topology
from kd2edge.schema import Precision

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = Path(__file__).with_name("graphs")
TRAINED = ROOT / "tests" / "data" / "omniglot" / "fp32.onnx"
SEED = 0
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
BEFORE_A_SUM = 0.25  # gain of what a sum reads, so that sixteen blocks leave FP16's range to none

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A net by its name: what it is, its input [C, H, W], and the recipe's sections for `kd.net.build`."""

    name: str
    about: str
    shape: tuple[int, int, int]
    output: str
    classes: int
    net: dict[str, object]


SUBJECTS = (
    Subject(
        "student",
        "the demo's student, ResNet-8 of the recipe omniglot, 32x32",
        (1, 32, 32),
        "embedding",
        40,
        {"model": {"name": "resnet_cifar", "arch": "8"}, "embedding": 128, "head": {"name": "arcface"}},
    ),
    Subject(
        "mobilefacenet",
        "MobileFaceNet, 112x112",
        (3, 112, 112),
        "embedding",
        40,
        {"model": {"name": "mobilefacenet"}, "neck": "gdc", "embedding": 128, "head": {"name": "arcface"}},
    ),
    Subject(
        "resnet50",
        "ResNet-50, torchvision's architecture, 224x224",
        (3, 224, 224),
        "logits",
        1000,
        {"model": {"name": "resnet", "depth": 50}},
    ),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def images(subject: Subject, count: int) -> Floats:
    """The same smooth noise everywhere, float32 [count, C, H, W], of about zero mean and unit variance."""
    channels, height, width = subject.shape
    random = np.random.default_rng(SEED)
    coarse = random.standard_normal((count, channels, 4, 4), np.float32)
    return np.ascontiguousarray(coarse.repeat(height // 4, axis=2).repeat(width // 4, axis=3))


def skeleton(subject: Subject, path: Path) -> None:
    """Write the graph of a net with its weights left out. Needs torch and its exporter."""
    from kd2edge.kd import net, to_onnx
    from kd2edge.schema import NetSpec

    channels, *size = subject.shape
    shape = net.Shape(channels, (size[0], size[1]), subject.classes)
    built = net.build(NetSpec.model_validate(subject.net), shape).eval()
    to_onnx.export(built, subject.output, images(subject, 2), path)
    model = load_model(path)
    for tensor in model.graph.initializer:
        if _drawn(tensor):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    path.write_bytes(model.SerializeToString(deterministic=True))


def filled(path: Path) -> ModelProto:
    """The graph with its weights drawn: He's normal distribution, smaller where a sum reads the result."""
    model = onnx.load(str(path), load_external_data=False)
    graph = Topology(model)
    summed = {name for node in graph.nodes if node.op_type == "Add" for name in node.input}
    for place, tensor in enumerate(model.graph.initializer):
        if not _drawn(tensor):
            continue
        gain = BEFORE_A_SUM if summed & {*graph.readers[tensor.name][0][0].output} else 1.0
        spread = gain * np.sqrt(2 / np.prod(tensor.dims[1:]))
        values = np.random.default_rng([SEED, place]).standard_normal(tuple(tensor.dims), np.float32)
        tensor.CopyFrom(numpy_helper.from_array((values * np.float32(spread)), tensor.name))
    onnx.checker.check_model(model)
    return model


def _drawn(tensor: TensorProto) -> bool:
    """Weights of convolutions and dense layers, not biases and slopes."""
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) in (2, 4)


def prepare(folder: Path, run: Path | None = None) -> list[Path]:
    """Write the graphs of the nets, and `run`'s student with its weights, to a folder. Needs torch and its exporter.

    Without a run the student is the trained one that comes with the tests, and nothing is written of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{subject.name}.onnx" for subject in SUBJECTS if subject.name != "student"]
    for path in made:
        skeleton(BY_NAME[path.stem], path)
    if run is not None:
        from kd2edge.run import open_run

        made.append(folder / "student.onnx")
        made[-1].write_bytes(open_run(run).artifact("fp32").path.read_bytes())
    return made


def source(subject: Subject, prepared: Path) -> Path:
    """Where the graph of a net is. Raises `UserError` where it was not prepared."""
    path = prepared / f"{subject.name}.onnx"
    found = TRAINED if subject.name == "student" and not path.is_file() else path
    if not found.is_file():
        raise UserError(f"There is no {path}.", "python -m benchmarks.gpu --prepare FOLDER makes it")
    return found


def weights(path: Path) -> str:
    """What is said of them beside every number."""
    return "trained weights" if whole(path) else "random weights, so that no accuracy is claimed"


def whole(path: Path) -> bool:
    """Whether a graph has all its weights."""
    model = onnx.load(str(path), load_external_data=False)
    return all(tensor.raw_data or tensor.float_data for tensor in model.graph.initializer if _drawn(tensor))


def make(subject: Subject, prepared: Path, folder: Path, calibration: int) -> dict[Precision, Path]:
    """FP32, FP16 and INT8 files of a net in a folder; INT8 for TensorRT, ranges by min and max of some images."""
    path = source(subject, prepared)
    fp32 = load_model(path) if whole(path) else filled(path)
    shown = images(subject, calibration)
    passes: dict[Precision, Callable[[], ModelProto]] = {
        "fp32": lambda: fp32,
        "fp16": lambda: to_fp16(fp32, [shown[:2]]),
        "int8": lambda: quantize_model(fp32, [shown], "tensorrt", "minmax").model,
    }
    made = {precision: folder / f"{subject.name}.{precision}.onnx" for precision in PRECISIONS}
    folder.mkdir(parents=True, exist_ok=True)
    for precision, path in made.items():
        save_model(passes[precision](), path)
    return made
