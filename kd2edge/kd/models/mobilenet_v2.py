"""MobileNetV2 (1801.04381, table 2): inverted residuals, linear bottlenecks; at stride 8 for images of 32 pixels."""

from typing import Literal

from torch import Tensor, nn

from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

# (expansion t, channels c, repeats n, stride s) of each row of bottlenecks in the paper's table 2
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST = 1280


class MobileNetV2(Backbone):
    """[N, C, H, W] → [N, 1280·max(1, multiplier), H / stride, W / stride]."""

    class Config(PluginConfig):
        """`multiplier` scales every width. `stride: 8` leaves the first two halvings out, as is usual for CIFAR.

        ReLU6 is the paper's; plain ReLU lets scales pass from layer to layer, which equalization before INT8 needs.
        """

        multiplier: float = 1.0
        stride: Literal[8, 32] = 32
        activation: Literal["relu6", "relu"] = "relu6"

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.stride = config.stride
        small, six = config.stride == 8, config.activation == "relu6"

        def scaled(channels: float) -> int:
            return max(8, round(channels * config.multiplier / 8) * 8)

        width = scaled(32)
        layers: list[nn.Module] = [_conv(shape.channels, width, 3, stride=1 if small else 2, six=six)]
        for row, (expansion, channels, repeats, stride) in enumerate(ROWS):
            first = 1 if small and row == 1 else stride
            for position in range(repeats):
                layers.append(_Bottleneck(width, scaled(channels), expansion, 1 if position else first, six))
                width = scaled(channels)
        self.width = max(LAST, scaled(LAST))
        layers.append(_conv(width, self.width, 1, six=six))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, six: bool) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expanding = [_conv(inputs, hidden, 1, six=six)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expanding,
            _conv(hidden, hidden, 3, stride=stride, groups=hidden, six=six),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, six: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6() if six else nn.ReLU(),
    )
