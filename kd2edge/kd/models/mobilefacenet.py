"""MobileFaceNet (1804.07573, table 1), and insightface's wider one; their global depthwise convolution: neck `gdc`."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from kd2edge.kd.activations import PReLU
from kd2edge.kd.models._inverted_residual import Activation, bottleneck, conv
from kd2edge.kd.models.resnet_cifar import initialise
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

LAST = 512
LEAK = 0.1  # of the leaky ReLU


class Form(NamedTuple):
    """`stem` channels, of which the second convolution mixes groups of `mixed`; the bottlenecks, row by row.

    A row is (expansion t, channels c, repeats n, stride s).
    """

    stem: int
    mixed: int
    rows: tuple[tuple[int, int, int, int], ...]


FORMS: Mapping[str, Form] = {
    "paper": Form(64, 1, ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))),
    "insightface": Form(
        128, 2, ((1, 128, 1, 2), (1, 128, 4, 1), (2, 256, 1, 2), (1, 256, 6, 1), (2, 256, 1, 2), (1, 256, 2, 1))
    ),
}
ACTIVATIONS: Mapping[str, Activation] = {
    "prelu": PReLU,
    "relu": lambda channels: nn.ReLU(),
    "leaky_relu": lambda channels: nn.LeakyReLU(LEAK),
}


class MobileFaceNet(Backbone):
    """[N, C, H, W] → [N, 512·multiplier, H / 16, W / 16]; H and W divisible by 16."""

    class Config(PluginConfig):
        """`form` is the paper's net, or insightface's: wider, expanding less, its second convolution in pairs.

        `multiplier` scales every width; `activation: relu` is the variant that TensorRT fuses with Q/DQ, `leaky_relu`
        has a slope of 0.1 below zero.
        """

        form: Literal["paper", "insightface"] = Field("paper", repr=False)  # its layers tell it
        multiplier: float = 1.0
        activation: Literal["prelu", "relu", "leaky_relu"] = "prelu"

    stride = 16

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        form, activation = FORMS[config.form], ACTIVATIONS[config.activation]

        def scaled(channels: int) -> int:
            return max(8, round(channels * config.multiplier / 8) * 8)

        width = scaled(form.stem)
        layers: list[nn.Module] = [
            conv(shape.channels, width, 3, activation, stride=2),
            conv(width, width, 3, activation, groups=width // form.mixed),
        ]
        for expansion, channels, repeats, stride in form.rows:
            for position in range(repeats):
                step = 1 if position else stride
                layers.append(bottleneck(width, width * expansion, scaled(channels), step, activation))
                width = scaled(channels)
        self.width = scaled(LAST)
        layers.append(conv(width, self.width, 1, activation))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out
