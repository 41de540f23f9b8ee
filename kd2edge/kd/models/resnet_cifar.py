"""CIFAR ResNets of the distillation literature: 20, 32, 44, 56, 110 (1512.03385, section 4.2), 8x4, 32x4 (1910.10699).

`arch: "D"` has stage widths 16, 32, 64; `arch: "DxK"` has 16K, 32K, 64K behind a stem of 32. D = 6n + 2.
"""

import re

import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig


class ResNetCifar(Backbone):
    """Three stages of basic blocks at full, half and quarter resolution; [N, C, H, W] → [N, width, H / 4, W / 4]."""

    class Config(PluginConfig):
        """`shortcut`: a 1x1 convolution with BN (the literature's) or option A (subsample, zero-padded channels)."""

        arch: str = "20"
        stem: int | None = None
        widths: tuple[int, int, int] | None = None
        shortcut: str = "conv"

        @field_validator("arch")
        @classmethod
        def _known(cls, arch: str) -> str:
            match = re.fullmatch(r"(\d+)(?:x(\d+))?", arch)
            if not match or (int(match[1]) - 2) % 6 or int(match[1]) < 8:
                raise ValueError("arch is a depth 6n + 2, with an optional width factor: 20, 56, 8x4, 32x4")
            return arch

        @field_validator("shortcut")
        @classmethod
        def _shortcut(cls, shortcut: str) -> str:
            if shortcut not in ("conv", "option_a"):
                raise ValueError("shortcut is conv or option_a")
            return shortcut

    stride = 4

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        depth, _, factor = config.arch.partition("x")
        widths = config.widths or tuple(w * int(factor or 1) for w in (16, 32, 64))
        stem = config.stem or (32 if factor else widths[0])
        blocks = (int(depth) - 2) // 6
        self.conv1 = nn.Conv2d(shape.channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, widths[0], blocks, 1, config.shortcut)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2, config.shortcut)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2, config.shortcut)
        self.width = widths[2]
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        out: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.downsample = (
                _OptionA(inputs, width, stride) if shortcut == "option_a" else project(inputs, width, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class _OptionA(nn.Module):
    """Shortcut without parameters: every stride-th pixel, and zeros for the new channels, half on each side."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.before = stride, (width - inputs) // 2
        self.after = width - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def project(inputs: int, width: int, stride: int) -> nn.Module:
    """Option B shortcut: a strided 1x1 convolution and BN."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def initialise(module: nn.Module) -> None:
    """Kaiming normal, fan out, for every convolution (1502.01852); BN starts as the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _stage(inputs: int, width: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = _Block(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(_Block(width, width, 1, shortcut) for _ in range(blocks - 1)))
