"""A classifier of colours with one outlier channel, its data, and a device whose latencies are scripted."""

import functools
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import ModelProto, TensorProto, numpy_helper

from kd2edge.artifact import Artifact, describe
from kd2edge.data import decoder_name, normalize, open_source
from kd2edge.edge.paired import time_in_turns
from kd2edge.graph.load import save_model
from kd2edge.graph.run import run, session
from kd2edge.schema import Latency, Plugin, Preprocessing
from kd2edge.verbs import trials
from tests import graphs, tiny

SIDE = graphs.SIZE
LAYER_MS = {TensorProto.FLOAT: 1.0, TensorProto.FLOAT16: 0.75, None: 0.5}  # by the type of a constant weight
LATENCY = Latency(batch=1, warmup_ms=1, seconds=0.05, min_samples=24)
MEAN = STD = (0.5, 0.5, 0.5)


class Clock:
    """A clock that only the device moves: what its latencies are does not depend on the machine that tests run on."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


CLOCK = Clock()
DEVICE = '''"""ONNX Runtime, but each weighted layer takes scripted time by its type."""

import onnx

from kd2edge.edge.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from tests.outliers import CLOCK, LAYER_MS


class Scripted(OnnxRuntimeSession):
    def __init__(self, session, path):
        super().__init__(session, path)
        graph = onnx.load(str(path)).graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        self.takes_ms = sum(LAYER_MS[types.get(node.input[1])] for node in layers)

    def infer(self, x):
        CLOCK.now_ns += round(1e6 * self.takes_ms)
        return super().infer(x)


class Device(OnnxRuntime):
    name = "scripted"

    def open(self, path, target):
        return Scripted(super().open(path, target)._session, path)
'''


def script_the_clock() -> None:
    """Let latencies of this process be timed by the device's clock."""
    vars(trials)["time_in_turns"] = functools.partial(time_in_turns, clock=CLOCK)


def folder(root: Path) -> Path:
    """Colours under train, val and test."""
    return tiny.image_folder(root, per_class=24, size=SIDE, splits=("train", "val", "test"))


def device(path: Path, precisions: tuple[str, ...] = ("fp32", "int8")) -> str:
    """A target whose back end is the scripted device; INT8 in TensorRT's flavour."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "scripted.py").write_text(DEVICE)
    told = {"about": "slow in float", "backend": str(path / "scripted.py"), "flavour": "tensorrt"}
    (path / "slow.yaml").write_text(yaml.safe_dump({**told, "precisions": [*precisions]}))
    return str(path / "slow.yaml")


def classifier(path: Path, images: Path, outlier: float = 300.0) -> Artifact:
    """A net of four convolutions whose last layer is fitted to the training images, with its manifest.

    Channel 0 behind the second convolution is `outlier` everywhere and read by nobody: in float it changes nothing,
    but the third convolution's input then has one scale for it and for channels of about one.
    """
    options = {"path": str(images), "size": SIDE, "mean": MEAN, "std": STD}
    source = open_source({"name": "imagefolder", **options})
    model = _net(outlier)
    split = source.split("train")
    pixels = normalize(split.read(np.arange(len(split))), source.preprocessing())
    _fit(model, pixels, split.labels, len(split.classes))
    save_model(model, path)
    preprocessing = Preprocessing(
        size=(SIDE, SIDE), channels=3, color="RGB", mean=MEAN, std=STD, decoder=decoder_name("bilinear")
    )
    return describe(
        path,
        kind="onnx",
        role="fp32",
        verb="distill",
        task="classification",
        output="logits",
        classes=tuple(split.classes),
        preprocessing=preprocessing,
        data=Plugin.model_validate({"name": "imagefolder", **options}),
    )


def _net(outlier: float) -> ModelProto:
    net = graphs.Net(seed=5)
    x = net.relu(net.conv("images", 16, 3, stride=2))
    bias = np.zeros(16, np.float32)
    bias[0] = outlier
    x = net.node("Conv", x, net.weights(16, 16, 3, 3), net.constant(bias), channels=16, pads=[1, 1, 1, 1])
    x = net.node("Elu", x)
    deaf = (net.random.standard_normal((32, 16, 3, 3)) / 12).astype(np.float32)
    deaf[:, 0] = 0
    x = net.node("Conv", x, net.constant(deaf), channels=32, pads=[1, 1, 1, 1], strides=[2, 2])
    x = net.relu(net.conv(net.relu(x), 32, 3))
    return net.model(net.gemm(net.pool(x), len(tiny.COLOURS)))


def _fit(model: ModelProto, pixels: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Set the last layer to the least-squares classifier of what it is given."""
    last = model.graph.node[-1]
    wide = ModelProto()
    wide.CopyFrom(model)
    wide.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    (features,) = run(session(wide), pixels, [last.input[0]])
    given = np.hstack([features, np.ones((len(features), 1))])
    wanted = np.eye(classes)[labels] - 1 / classes
    solved = np.linalg.lstsq(given, wanted, rcond=1e-6)[0].T.astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == last.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(solved[:, :-1]), tensor.name))
        elif tensor.name == last.input[2]:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(solved[:, -1]), tensor.name))
