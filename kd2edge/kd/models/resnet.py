"""ResNet-18, 34 and 50 (1512.03385, table 1), with the layer names of torchvision so that its checkpoints load."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd2edge.kd.models.resnet_cifar import initialise, project
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig


class ResNet(Backbone):
    """Four stages behind a strided stem; [N, C, H, W] → [N, 512 or 2048, H / 32, W / 32]."""

    class Config(PluginConfig):
        """`stem: small` keeps small images large: a 3x3 convolution without stride or pooling (stride 8 in all)."""

        depth: Literal[18, 34, 50] = 18
        stem: Literal["imagenet", "small"] = "imagenet"

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        block: type[_Basic] | type[_Bottleneck] = _Bottleneck if config.depth == 50 else _Basic
        blocks = (2, 2, 2, 2) if config.depth == 18 else (3, 4, 6, 3)
        small = config.stem == "small"
        self.conv1 = nn.Conv2d(shape.channels, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stride = 8 if small else 32
        width = 64
        for index, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for position in range(count):
                layers.append(block(width, 64 << index, 2 if index and not position else 1))
                width = (64 << index) * block.expansion
            setattr(self, f"layer{index + 1}", nn.Sequential(*layers))
        self.width = width
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for index in range(1, 5):
            x = getattr(self, f"layer{index}")(x)
        out: Tensor = x
        return out


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(inputs, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _shortcut(inputs: int, width: int, stride: int) -> nn.Module:
    return project(inputs, width, stride) if stride != 1 or inputs != width else nn.Identity()
