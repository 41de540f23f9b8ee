"""Tiny nets as ONNX graphs made by hand: the shapes that distilled students have, with seeded random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIZE = 16


class Net:
    """Writes one graph layer by layer; a layer takes the name of its input tensor and returns that of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.channels = {"images": 3}

    def constant(self, values: NDArray[np.generic] | np.generic) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name, **attributes))
        self.channels[f"{name}_out"] = channels or self.channels.get("".join(inputs[:1]), 0)
        return f"{name}_out"

    def weights(self, *shape: int) -> str:
        return self.constant((self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def vector(self, low: float, high: float, size: int) -> str:
        return self.constant(self.random.uniform(low, high, size).astype(np.float32))

    def conv(self, x: str, outputs: int, kernel: int, stride: int = 1, group: int = 1, pad: int | None = None) -> str:
        weight = self.weights(outputs, self.channels[x] // group, kernel, kernel)
        pads = [kernel // 2 if pad is None else pad] * 4
        return self.node("Conv", x, weight, channels=outputs, strides=[stride] * 2, group=group, pads=pads)

    def norm(self, x: str) -> str:
        size = self.channels[x]
        ends = [(0.7, 1.4), (-0.3, 0.3), (-0.2, 0.2), (0.5, 2.0)]
        return self.node("BatchNormalization", x, *[self.vector(low, high, size) for low, high in ends])

    def prelu(self, x: str) -> str:
        return self.node("PRelu", x, self.constant(self.random.uniform(0, 0.4, (self.channels[x], 1, 1)).astype("f")))

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def pool(self, x: str) -> str:
        return self.node("Flatten", self.node("GlobalAveragePool", x))

    def gemm(self, x: str, outputs: int) -> str:
        weight = self.weights(outputs, self.channels[x])
        return self.node("Gemm", x, weight, self.vector(-0.1, 0.1, outputs), channels=outputs, transB=1)

    def model(self, output: str, opset: int = 17, batch: int | str = "batch", size: int = SIZE) -> ModelProto:
        given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, self.channels[output]])
        graph = helper.make_graph(self.nodes, "net", [given], [made], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def residual_net(shortcut: str = "conv", opset: int = 17) -> ModelProto:
    """A ResNet: one identity block, one that halves the map by a `conv` or by slicing and padding (`pad`)."""
    net = Net()
    x = net.relu(net.norm(net.conv("images", 16, 3)))
    x = net.relu(net.node("Add", _branch(net, x, 16, 1), x))
    if shortcut == "conv":
        skip = net.norm(net.conv(x, 32, 1, stride=2))
    else:
        ends = [net.constant(np.array(v, dtype=np.int64)) for v in ([0, 0], [99, 99], [2, 3], [2, 2])]
        pads = net.constant(np.array([0, 8, 0, 0, 0, 8, 0, 0], dtype=np.int64))
        skip = net.node("Pad", net.node("Slice", x, *ends), pads, net.constant(np.float32(0)), channels=32)
    x = net.relu(net.node("Add", skip, _branch(net, x, 32, 2)))
    return net.model(net.gemm(net.pool(x), 10), opset)


def _branch(net: Net, x: str, outputs: int, stride: int) -> str:
    inner = net.relu(net.norm(net.conv(x, outputs, 3, stride)))
    return net.norm(net.conv(inner, outputs, 3))


def face_net(normalised: bool = False) -> ModelProto:
    """A MobileFaceNet: PReLU, depthwise convolutions, a bottleneck, a global depthwise convolution, an embedding."""
    net = Net(seed=1)
    x = net.prelu(net.norm(net.conv("images", 16, 3, stride=2)))
    x = net.prelu(net.norm(net.conv(x, 16, 3, group=16)))
    x = net.norm(net.conv(x, 32, 1))
    inner = net.prelu(net.norm(net.conv(x, 64, 1)))
    inner = net.prelu(net.norm(net.conv(inner, 64, 3, group=64)))
    x = net.node("Add", x, net.norm(net.conv(inner, 32, 1)))
    x = net.prelu(net.norm(net.conv(x, 64, 1)))
    x = net.norm(net.conv(x, 64, SIZE // 2, group=64, pad=0))
    weight = net.constant((net.random.standard_normal((64, 32)) / 8).astype(np.float32))
    x = net.norm(net.node("MatMul", net.node("Flatten", x), weight, channels=32))
    if normalised:
        length = net.node("ReduceL2", x, axes=[1])
        x = net.node("Div", x, net.node("Clip", length, net.constant(np.float32(1e-12))), channels=32)
    return net.model(x)


def outlier_net() -> ModelProto:
    """A depthwise convolution reads a few channels two hundred times larger than the rest, and makes them alike."""
    net = Net(seed=4)
    x = net.conv(net.prelu(net.norm(net.conv("images", 16, 3, stride=2))), 64, 1)
    size = np.where(np.arange(64) % 16 == 0, 200.0, 1.0).astype(np.float32)
    ends = [size, np.zeros(64, np.float32), np.zeros(64, np.float32), np.ones(64, np.float32)]
    x = net.prelu(net.node("BatchNormalization", x, *[net.constant(values) for values in ends]))
    filters = net.random.standard_normal((64, 1, 3, 3)) / 3 / size.reshape(-1, 1, 1, 1)
    weight, bias = net.constant(filters.astype(np.float32)), net.vector(-0.1, 0.1, 64)
    x = net.node("Conv", x, weight, bias, channels=64, group=64, pads=[1] * 4)
    return net.model(net.gemm(net.pool(net.prelu(x)), 32))


def pooled_net() -> ModelProto:
    """A plain net: MaxPool twice, global average pooling, a hidden Gemm and a classifier."""
    net = Net(seed=2)
    x = net.node("MaxPool", net.relu(net.conv("images", 16, 3)), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("MaxPool", net.relu(net.norm(net.conv(x, 32, 3))), kernel_shape=[2, 2], strides=[2, 2])
    x = net.relu(net.norm(net.conv(x, 32, 3)))
    return net.model(net.gemm(net.relu(net.gemm(net.pool(x), 24)), 10))


def simkd_net() -> ModelProto:
    """A SimKD student as it ships: trunk, projector (1x1, 3x3, 1x1 with norms), the teacher's classifier."""
    net = Net(seed=3)
    x = net.relu(net.norm(net.conv("images", 16, 3, stride=2)))
    x = net.relu(net.node("Add", _branch(net, x, 16, 1), x))
    x = net.relu(net.norm(net.conv(x, 32, 1)))
    x = net.relu(net.norm(net.conv(x, 32, 3)))
    x = net.relu(net.norm(net.conv(x, 64, 1)))
    return net.model(net.gemm(net.pool(x), 10))


NETS: dict[str, Callable[[], ModelProto]] = {
    "residual": residual_net,
    "padded": lambda: residual_net("pad"),
    "face": face_net,
    "normalised": lambda: face_net(normalised=True),
    "outlier": outlier_net,
    "pooled": pooled_net,
    "simkd": simkd_net,
}


def images(count: int, seed: int = 7, size: int = SIZE) -> NDArray[np.float32]:
    """Smooth noise [count, 3, size, size] with the statistics of normalised photographs, more or less."""
    coarse = np.random.default_rng(seed).standard_normal((count, 3, size // 4, size // 4))
    fine = np.random.default_rng(seed + 1).standard_normal((count, 3, size, size))
    return (coarse.repeat(4, axis=2).repeat(4, axis=3) + 0.3 * fine).astype(np.float32)
