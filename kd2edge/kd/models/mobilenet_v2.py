"""MobileNetV2 (1801.04381, table 2): inverted residuals, linear bottlenecks; stride 8 or 16 for images of 32 pixels.

The distillation literature's has half the width: `form: distillation, multiplier: 0.5, stride: 16, activation: relu`.
"""

from typing import Literal

from pydantic import Field
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

        `form: distillation` has no multiples of 8 for widths, and a pointwise convolution in the first row too, where
        nothing is expanded; of the first two halvings that literature leaves out the second, `stride: 16`.

        ReLU6 is the paper's; plain ReLU lets scales pass from layer to layer, which equalization before INT8 needs.
        """

        form: Literal["paper", "distillation"] = Field("paper", repr=False)  # its layers tell it
        multiplier: float = Field(1.0, gt=0, allow_inf_nan=False)
        stride: Literal[8, 16, 32] = 32
        activation: Literal["relu6", "relu"] = "relu6"

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.stride = config.stride
        cut = config.form == "distillation"

        def activation(channels: int) -> nn.Module:
            return nn.ReLU6() if config.activation == "relu6" else nn.ReLU()

        def scaled(channels: float) -> int:
            exact = channels * config.multiplier
            return max(1, int(exact)) if cut else max(8, round(exact / 8) * 8)

        width = scaled(32)
        layers: list[nn.Module] = [conv(shape.channels, width, 3, activation, stride=1 if config.stride == 8 else 2)]
        for row, (expansion, channels, repeats, stride) in enumerate(ROWS):
            first = 1 if config.stride < 32 and row == 1 else stride
            for position in range(repeats):
                step, hidden = 1 if position else first, width * expansion
                outputs, expands = scaled(channels), cut or expansion > 1
                layers.append(bottleneck(width, hidden, outputs, step, activation, expands=expands))
                width = outputs
        self.width = max(LAST, scaled(LAST))
        layers.append(conv(width, self.width, 1, activation))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out
