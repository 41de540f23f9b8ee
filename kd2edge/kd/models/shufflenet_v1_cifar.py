"""ShuffleNet (1707.01083, figure 2 and table 1) for images of 32 pixels, as the distillation literature has it.

Its stem is a 1x1 convolution without stride or pooling, a unit that halves its map has its bottleneck cut from what it
adds to its input, and a ReLU follows the depthwise convolution, where the paper has none.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2edge.kd.models._channel_shuffle import shuffled
from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

WIDTHS = {2: (200, 400, 800), 3: (240, 480, 960)}  # by groups, the paper's table 1
REPEATS = (4, 8, 4)
STEM = 24


class ShuffleNetV1Cifar(Backbone):
    """Three stages of grouped bottlenecks; [N, C, H, W] → [N, 960, H / 8, W / 8], with two groups 800 channels."""

    class Config(PluginConfig):
        """`groups` is of the 1x1 convolutions, beginning with the second."""

        groups: Literal[2, 3] = 3

    stride = 8

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.conv1 = nn.Conv2d(shape.channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        width = STEM
        for index, (outputs, repeats) in enumerate(zip(WIDTHS[config.groups], REPEATS, strict=True), 1):
            units = [_Unit(width, outputs, config.groups, halves=True)]
            units += [_Unit(outputs, outputs, config.groups, halves=False) for _ in range(repeats - 1)]
            setattr(self, f"layer{index}", nn.Sequential(*units))
            width = outputs
        self.width = width
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for index in range(1, 4):
            x = getattr(self, f"layer{index}")(x)
        return x


class _Unit(nn.Module):
    """1x1 in groups, shuffle, 3x3 depthwise, 1x1 in groups; added to the input, or beside it where both are halved."""

    def __init__(self, inputs: int, outputs: int, groups: int, *, halves: bool) -> None:
        super().__init__()
        own = outputs - inputs if halves else outputs
        hidden, stride = own // 4, 2 if halves else 1
        self.groups = 1 if inputs == STEM else groups  # the paper's: so few channels are not worth grouping
        self.conv1 = nn.Conv2d(inputs, hidden, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, own, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(own)
        self.pool = nn.AvgPool2d(3, 2, 1) if halves else None

    def forward(self, x: Tensor) -> Tensor:
        out = shuffled(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + x if self.pool is None else torch.cat([out, self.pool(x)], 1))
