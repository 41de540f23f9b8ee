"""The CIFAR nets of the distillation suites under the names of their checkpoints, written anew from their definitions.

Each is a tree of layers and a forward pass over their paths: nothing of `kd2edge.kd.models` is in it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layers = dict[str, nn.Module]  # by dotted path, in order
Find = Callable[[str], nn.Module]


class Published(nn.Module):
    def __init__(self, layers: Layers, compute: Callable[[Find, Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute
        for path, layer in layers.items():
            parent: nn.Module = self
            *outer, last = path.split(".")
            for part in outer:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.compute(self.get_submodule, images)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def _pooled(at: Find, x: Tensor, classifier: str) -> Tensor:
    logits: Tensor = at(classifier)(x.mean((2, 3)))
    return logits


def resnet_8x4(classes: int) -> nn.Module:
    """A stem of 32, one block of 64, 128 and 256 channels each; `downsample`, `fc`."""
    layers: Layers = {"conv1": _conv(3, 32), "bn1": nn.BatchNorm2d(32)}
    inputs = 32
    for stage, width in enumerate((64, 128, 256), 1):
        stride, block = min(stage, 2), f"layer{stage}.0"
        layers |= {f"{block}.conv1": _conv(inputs, width, 3, stride), f"{block}.bn1": nn.BatchNorm2d(width)}
        layers |= {f"{block}.conv2": _conv(width, width), f"{block}.bn2": nn.BatchNorm2d(width)}
        layers |= {f"{block}.downsample.0": _conv(inputs, width, 1, stride)}
        layers |= {f"{block}.downsample.1": nn.BatchNorm2d(width)}
        inputs = width
    layers["fc"] = nn.Linear(256, classes)

    def compute(at: Find, x: Tensor) -> Tensor:
        x = at("bn1")(at("conv1")(x)).relu()
        for block in ("layer1.0", "layer2.0", "layer3.0"):
            out = at(f"{block}.bn1")(at(f"{block}.conv1")(x)).relu()
            short = at(f"{block}.downsample.1")(at(f"{block}.downsample.0")(x))
            x = (at(f"{block}.bn2")(at(f"{block}.conv2")(out)) + short).relu()
        return _pooled(at, x, "fc")

    return Published(layers, compute)


def resnet_50(classes: int) -> nn.Module:
    """Bottlenecks behind a 3x3 stem without stride; `shortcut`, `linear`."""
    layers: Layers = {"conv1": _conv(3, 64), "bn1": nn.BatchNorm2d(64)}
    blocks: list[str] = []
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3), 1):
        width = 32 << stage
        for place in range(count):
            stride, block = 2 if stage > 1 and not place else 1, f"layer{stage}.{place}"
            shapes = ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
            for number, (given, made, kernel, step) in enumerate(shapes, 1):
                layers[f"{block}.conv{number}"] = _conv(given, made, kernel, step)
                layers[f"{block}.bn{number}"] = nn.BatchNorm2d(made)
            if not place:
                layers[f"{block}.shortcut.0"] = _conv(inputs, 4 * width, 1, stride)
                layers[f"{block}.shortcut.1"] = nn.BatchNorm2d(4 * width)
            inputs = 4 * width
            blocks.append(block)
    layers["linear"] = nn.Linear(inputs, classes)

    def compute(at: Find, x: Tensor) -> Tensor:
        x = at("bn1")(at("conv1")(x)).relu()
        for block in blocks:
            out = at(f"{block}.bn1")(at(f"{block}.conv1")(x)).relu()
            out = at(f"{block}.bn2")(at(f"{block}.conv2")(out)).relu()
            short = at(f"{block}.shortcut.1")(at(f"{block}.shortcut.0")(x)) if block.endswith(".0") else x
            x = (at(f"{block}.bn3")(at(f"{block}.conv3")(out)) + short).relu()
        return _pooled(at, x, "linear")

    return Published(layers, compute)


def wrn_16_2(classes: int) -> nn.Module:
    """BN and ReLU before convolutions; `block1.layer.0`, `convShortcut`, `fc`."""
    layers: Layers = {"conv1": _conv(3, 16)}
    blocks: list[str] = []
    inputs = 16
    for stage, width in enumerate((32, 64, 128), 1):
        for place in range(2):
            stride, block = 2 if stage > 1 and not place else 1, f"block{stage}.layer.{place}"
            layers |= {f"{block}.bn1": nn.BatchNorm2d(inputs), f"{block}.conv1": _conv(inputs, width, 3, stride)}
            layers |= {f"{block}.bn2": nn.BatchNorm2d(width), f"{block}.conv2": _conv(width, width)}
            if not place:
                layers[f"{block}.convShortcut"] = _conv(inputs, width, 1, stride)
            inputs = width
            blocks.append(block)
    layers |= {"bn1": nn.BatchNorm2d(128), "fc": nn.Linear(128, classes)}

    def compute(at: Find, x: Tensor) -> Tensor:
        x = at("conv1")(x)
        for block in blocks:
            active = at(f"{block}.bn1")(x).relu()
            out = at(f"{block}.conv2")(at(f"{block}.bn2")(at(f"{block}.conv1")(active)).relu())
            x = out + (at(f"{block}.convShortcut")(active) if block.endswith(".0") else x)
        return _pooled(at, at("bn1")(x).relu(), "fc")

    return Published(layers, compute)


def vgg_8(classes: int) -> nn.Module:
    """A convolution with a bias a stage; `block0.0`, `block0.1`, `classifier`."""
    layers: Layers = {}
    inputs = 3
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        layers |= {f"block{stage}.0": _conv(inputs, width, bias=True), f"block{stage}.1": nn.BatchNorm2d(width)}
        inputs = width
    layers["classifier"] = nn.Linear(512, classes)

    def compute(at: Find, x: Tensor) -> Tensor:
        for stage in range(5):
            x = at(f"block{stage}.1")(at(f"block{stage}.0")(x)).relu()
            x = F.max_pool2d(x, 2) if stage < 3 else x
        return _pooled(at, x, "classifier")

    return Published(layers, compute)


def mobile_half(classes: int) -> nn.Module:
    """MobileNetV2 of half the width; `blocks.0.0.conv.0`, `classifier.0`."""
    layers: Layers = {"conv1.0": _conv(3, 16, 3, 2), "conv1.1": nn.BatchNorm2d(16)}
    blocks: list[tuple[str, bool]] = []
    inputs = 16
    rows = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
    for row, (times, outputs, count, first) in enumerate(rows):
        for place in range(count):
            stride, block, hidden = 1 if place else first, f"blocks.{row}.{place}", times * inputs
            for number, layer in enumerate(
                (_conv(inputs, hidden, 1), _conv(hidden, hidden, 3, stride, hidden), _conv(hidden, outputs, 1))
            ):
                layers[f"{block}.conv.{3 * number}"] = layer
                layers[f"{block}.conv.{3 * number + 1}"] = nn.BatchNorm2d(outputs if number == 2 else hidden)
            blocks.append((block, stride == 1 and inputs == outputs))
            inputs = outputs
    layers |= {"conv2.0": _conv(160, 1280, 1), "conv2.1": nn.BatchNorm2d(1280)}
    layers["classifier.0"] = nn.Linear(1280, classes)

    def compute(at: Find, x: Tensor) -> Tensor:
        x = at("conv1.1")(at("conv1.0")(x)).relu()
        for block, adds in blocks:
            out = at(f"{block}.conv.1")(at(f"{block}.conv.0")(x)).relu()
            out = at(f"{block}.conv.4")(at(f"{block}.conv.3")(out)).relu()
            out = at(f"{block}.conv.7")(at(f"{block}.conv.6")(out))
            x = out + x if adds else out
        return _pooled(at, at("conv2.1")(at("conv2.0")(x)).relu(), "classifier.0")

    return Published(layers, compute)


def _interleaved(x: Tensor, groups: int) -> Tensor:
    """Channel c of the result is channel c // groups of group c % groups."""
    size = x.shape[1] // groups
    return x[:, [(c % groups) * size + c // groups for c in range(x.shape[1])]]


def shuffle_v1(classes: int) -> nn.Module:
    """Three groups, but one in the first unit's first convolution; `layer1.0.conv1`, `linear`."""
    layers: Layers = {"conv1": _conv(3, 24, 1), "bn1": nn.BatchNorm2d(24)}
    units: list[tuple[str, int]] = []
    inputs = 24
    for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
        for place in range(count):
            unit, own, stride = f"layer{stage}.{place}", width if place else width - inputs, 1 if place else 2
            hidden, groups = own // 4, 1 if inputs == 24 else 3
            layers |= {f"{unit}.conv1": _conv(inputs, hidden, 1, 1, groups), f"{unit}.bn1": nn.BatchNorm2d(hidden)}
            layers |= {f"{unit}.conv2": _conv(hidden, hidden, 3, stride, hidden)}
            layers |= {f"{unit}.bn2": nn.BatchNorm2d(hidden), f"{unit}.conv3": _conv(hidden, own, 1, 1, 3)}
            layers |= {f"{unit}.bn3": nn.BatchNorm2d(own)}
            units.append((unit, groups))
            inputs = width
    layers["linear"] = nn.Linear(960, classes)

    def compute(at: Find, x: Tensor) -> Tensor:
        x = at("bn1")(at("conv1")(x)).relu()
        for unit, groups in units:
            out = _interleaved(at(f"{unit}.bn1")(at(f"{unit}.conv1")(x)).relu(), groups)
            out = at(f"{unit}.bn2")(at(f"{unit}.conv2")(out)).relu()
            out = at(f"{unit}.bn3")(at(f"{unit}.conv3")(out))
            halves = unit.endswith(".0")
            x = (torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1) if halves else out + x).relu()
        return _pooled(at, x, "linear")

    return Published(layers, compute)


def shuffle_v2(classes: int) -> nn.Module:
    """x1; `layer1.0` halves and has five convolutions, the others three; `linear`."""
    layers: Layers = {"conv1": _conv(3, 24, 1), "bn1": nn.BatchNorm2d(24)}
    units: list[str] = []
    inputs = 24
    for stage, (width, count) in enumerate(((116, 4), (232, 8), (464, 4)), 1):
        half = width // 2
        for place in range(count):
            unit = f"layer{stage}.{place}"
            shapes = [(half, half, 1, 1, 1), (half, half, 3, 1, half), (half, half, 1, 1, 1)]
            if not place:
                shapes = [(inputs, inputs, 3, 2, inputs), (inputs, half, 1, 1, 1), (inputs, half, 1, 1, 1)]
                shapes += [(half, half, 3, 2, half), (half, half, 1, 1, 1)]
            for number, (given, made, kernel, stride, groups) in enumerate(shapes, 1):
                layers[f"{unit}.conv{number}"] = _conv(given, made, kernel, stride, groups)
                layers[f"{unit}.bn{number}"] = nn.BatchNorm2d(made)
            units.append(unit)
        inputs = width
    layers |= {"conv2": _conv(464, 1024, 1), "bn2": nn.BatchNorm2d(1024), "linear": nn.Linear(1024, classes)}

    def compute(at: Find, x: Tensor) -> Tensor:
        def layer(number: int, x: Tensor) -> Tensor:
            out: Tensor = at(f"{unit}.bn{number}")(at(f"{unit}.conv{number}")(x))
            return out

        x = at("bn1")(at("conv1")(x)).relu()
        for unit in units:
            if unit.endswith(".0"):
                left = layer(2, layer(1, x)).relu()
                right = layer(5, layer(4, layer(3, x).relu())).relu()
            else:
                left, right = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
                right = layer(3, layer(2, layer(1, right).relu())).relu()
            x = _interleaved(torch.cat([left, right], 1), 2)
        return _pooled(at, at("bn2")(at("conv2")(x)).relu(), "linear")

    return Published(layers, compute)
