"""ShuffleNetV2 x0.5, x1, x1.5 and x2 (1807.11164, figure 3 and table 5) for images of 32 pixels.

As the distillation literature has it: the stem is a 1x1 convolution without stride or pooling.
"""

import torch
import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from kd2edge.kd.models._channel_shuffle import shuffled
from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
REPEATS = (3, 7, 3)  # beside the unit that halves
STEM = 24


class ShuffleNetV2Cifar(Backbone):
    """Three stages and a 1x1 convolution; [N, C, H, W] → [N, 1024, H / 8, W / 8], of size 2 2048 channels."""

    class Config(PluginConfig):
        """`size` chooses a column of the paper's table 5."""

        size: float = 1.0

        @field_validator("size")
        @classmethod
        def _known(cls, size: float) -> float:
            if size not in WIDTHS:
                raise ValueError(f"size is one of {', '.join(f'{known:g}' for known in WIDTHS)}")
            return size

    stride = 8

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        *stages, self.width = WIDTHS[config.size]
        self.conv1 = nn.Conv2d(shape.channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        width = STEM
        for index, (outputs, repeats) in enumerate(zip(stages, REPEATS, strict=True), 1):
            units = [_Halving(width, outputs), *(_Unit(outputs // 2) for _ in range(repeats))]
            setattr(self, f"layer{index}", nn.Sequential(*units))
            width = outputs
        self.conv2 = nn.Conv2d(width, self.width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.width)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for index in range(1, 4):
            x = getattr(self, f"layer{index}")(x)
        return F.relu(self.bn2(self.conv2(x)))


class _Unit(nn.Module):
    """Half of the channels pass as they are, the others through 1x1, 3x3 depthwise, 1x1; then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        passed, out = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = F.relu(self.bn3(self.conv3(self.bn2(self.conv2(out)))))
        return shuffled(torch.cat([passed, out], 1), 2)


class _Halving(nn.Module):
    """All channels go both ways, 3x3 depthwise and 1x1, and 1x1, 3x3 depthwise, 1x1, at half the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv4 = nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False)
        self.bn4 = nn.BatchNorm2d(width)
        self.conv5 = nn.Conv2d(width, width, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        other = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        other = F.relu(self.bn5(self.conv5(other)))
        return shuffled(torch.cat([one, other], 1), 2)
