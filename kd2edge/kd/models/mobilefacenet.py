"""MobileFaceNet (1804.07573, table 1): inverted residuals for faces; its global depthwise convolution is neck `gdc`."""

from typing import Literal

from torch import Tensor, nn

from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

# (expansion t, channels c, repeats n, stride s) of each row of bottlenecks in the paper's table 1
ROWS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(Backbone):
    """[N, C, H, W] → [N, 512·multiplier, H / 16, W / 16]; H and W divisible by 16."""

    class Config(PluginConfig):
        """`multiplier` scales every width; `activation: relu` is the variant that TensorRT fuses with Q/DQ."""

        multiplier: float = 1.0
        activation: Literal["prelu", "relu"] = "prelu"

    stride = 16

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        prelu = config.activation == "prelu"

        def scaled(channels: int) -> int:
            return max(8, round(channels * config.multiplier / 8) * 8)

        width = scaled(64)
        layers: list[nn.Module] = [
            _conv(shape.channels, width, 3, stride=2, prelu=prelu),
            _conv(width, width, 3, groups=width, prelu=prelu),
        ]
        for expansion, channels, repeats, stride in ROWS:
            for position in range(repeats):
                layers.append(_Bottleneck(width, scaled(channels), expansion, 1 if position else stride, prelu))
                width = scaled(channels)
        self.width = scaled(512)
        layers.append(_conv(width, self.width, 1, prelu=prelu))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, prelu: bool) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            _conv(inputs, hidden, 1, prelu=prelu),
            _conv(hidden, hidden, 3, stride=stride, groups=hidden, prelu=prelu),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, prelu: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs) if prelu else nn.ReLU(),
    )
