"""iResNet-18, 34, 50 and 100: ArcFace's improved ResNet (1801.07698, section 3), with arcface_torch's layer names."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kd2edge.kd.activations import PReLU
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
STRIDE = 16
STD = 0.1  # of a convolution's weights before training, as arcface_torch has it


class IResNet(Backbone):
    """Four stages behind a stem without stride, and what makes their map an embedding: BN, dropout, linear layer, BN.

    [N, C, H, W] → the map behind the first of these BNs [N, 512·multiplier, H / 16, W / 16], and [N, `embedding`].
    The linear layer sees every pixel of the map, so weights are for one input size. The last BN has no gain to learn.
    """

    class Config(PluginConfig):
        """`embedding` is the width that the net itself hands on; a recipe's `teacher.embedding` would add a layer."""

        depth: Literal[18, 34, 50, 100] = 18
        embedding: int = Field(512, ge=2)
        dropout: float = Field(0.0, ge=0, lt=1)
        multiplier: float = Field(1.0, gt=0)

    pools = True
    stride = STRIDE

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.width = config.embedding
        widths = [max(8, round(channels * config.multiplier / 8) * 8) for channels in (64, 128, 256, 512)]
        width = widths[0]
        self.conv1 = nn.Conv2d(shape.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = PReLU(width)
        for index, (outputs, count) in enumerate(zip(widths, BLOCKS[config.depth], strict=True), 1):
            blocks = [_Block(width, outputs, 2), *(_Block(outputs, outputs, 1) for _ in range(count - 1))]
            setattr(self, f"layer{index}", nn.Sequential(*blocks))
            width = outputs
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(config.dropout)
        height, breadth = (-(-edge // STRIDE) for edge in shape.size)  # each stage rounds up
        self.fc = nn.Linear(width * height * breadth, config.embedding)
        self.features = nn.BatchNorm1d(config.embedding)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=STD)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x: Tensor = self.prelu(self.bn1(self.conv1(images)))
        for index in range(1, 5):
            x = getattr(self, f"layer{index}")(x)
        fmap = self.bn2(x)
        return fmap, self.features(self.fc(self.dropout(torch.flatten(fmap, 1))))


class _Block(nn.Module):
    """BN, convolution, BN, PReLU, strided convolution, BN; nothing follows the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out = self.bn3(self.conv2(out))
        summed: Tensor = out + self.downsample(x)
        return summed
