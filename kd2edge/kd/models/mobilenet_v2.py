"""MobileNetV2 (1801.04381, table 2): inverted residuals, linear bottlenecks; at stride 8 for images of 32 pixels."""

from typing import Literal

from torch import Tensor, nn

from kd2edge.kd.models._inverted_residual import bottleneck, conv
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
        small = config.stride == 8

        def activation(channels: int) -> nn.Module:
            return nn.ReLU6() if config.activation == "relu6" else nn.ReLU()

        def scaled(channels: float) -> int:
            return max(8, round(channels * config.multiplier / 8) * 8)

        width = scaled(32)
        layers: list[nn.Module] = [conv(shape.channels, width, 3, activation, stride=1 if small else 2)]
        for row, (expansion, channels, repeats, stride) in enumerate(ROWS):
            first = 1 if small and row == 1 else stride
            for position in range(repeats):
                step, hidden = 1 if position else first, width * expansion
                layers.append(bottleneck(width, hidden, scaled(channels), step, activation, expands=expansion > 1))
                width = scaled(channels)
        self.width = max(LAST, scaled(LAST))
        layers.append(conv(width, self.width, 1, activation))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out
