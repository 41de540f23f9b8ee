"""Wide ResNets of the CIFAR literature, WRN-d-k: 40-2, 40-1, 16-2 (1605.07146, table 1), BN and ReLU come first.

`arch: "D-K"` has three stages of (D - 4) / 6 blocks, 16K, 32K and 64K channels wide, behind a stem of 16.
"""

import re

import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

STEM = 16


class WrnCifar(Backbone):
    """Three stages, a last BN and ReLU; [N, C, H, W] → [N, 64K, H / 4, W / 4]."""

    class Config(PluginConfig):
        """No dropout: the paper has none where images are augmented, and neither have the distillation suites."""

        arch: str = "16-2"

        @field_validator("arch")
        @classmethod
        def _known(cls, arch: str) -> str:
            match = re.fullmatch(r"(\d+)-([1-9]\d*)", arch)
            if not match or (int(match[1]) - 4) % 6 or int(match[1]) < 10:
                raise ValueError('arch is a depth 6n + 4 and a width factor: "16-2", "40-1", "40-2"')
            return arch

    stride = 4

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        depth, factor = (int(number) for number in config.arch.split("-"))
        width = STEM
        self.conv1 = nn.Conv2d(shape.channels, width, 3, padding=1, bias=False)
        for index in range(3):
            outputs = (16 << index) * factor
            blocks = [_Block(width, outputs, 2 if index else 1)]
            blocks += [_Block(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1)]
            setattr(self, f"block{index + 1}", nn.Sequential(*blocks))
            width = outputs
        self.bn1 = nn.BatchNorm2d(width)
        self.width = width
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.conv1(images)
        for index in range(1, 4):
            x = getattr(self, f"block{index}")(x)
        return F.relu(self.bn1(x))


class _Block(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, 3x3, and a sum; where widths differ the shortcut, 1x1, sees the first ReLU's output."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))
