"""VGGs of the distillation literature, 8 and 13 among them: VGG's stages (1409.1556, table 1) with BN.

VGG-8 has one 3x3 convolution a stage where VGG-13 has two. One linear layer takes the place of the paper's three.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

REPEATS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VggCifar(Backbone):
    """Five stages with max pooling between; [N, C, H, W] → [N, 512·multiplier, H / stride, W / stride]."""

    class Config(PluginConfig):
        """`stride: 16` pools before the last stage too, as is usual for images of 64 pixels."""

        depth: Literal[8, 11, 13, 16, 19] = 8
        stride: Literal[8, 16] = 8
        multiplier: float = Field(1.0, gt=0, allow_inf_nan=False)

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.stride = config.stride
        width = shape.channels
        for index, (channels, repeats) in enumerate(zip(WIDTHS, REPEATS[config.depth], strict=True)):
            outputs = max(8, round(channels * config.multiplier / 8) * 8)
            layers: list[nn.Module] = []
            for _ in range(repeats):
                layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                width = outputs
            setattr(self, f"block{index}", nn.Sequential(*layers))
        self.width = width
        initialise(self)  # a bias before BN does nothing that its mean does not undo; the published nets have them

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for index in range(5):
            x = getattr(self, f"block{index}")(x)
            if index < 3 or (index == 3 and self.stride == 16):
                x = F.max_pool2d(x, 2)
        return x
