"""The block of MobileNetV2 and MobileFaceNet: expand, filter each channel alone, project without activation.

The inverted residual with a linear bottleneck: Sandler et al., arXiv 1801.04381, section 3.3.
"""

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[int], nn.Module]  # of so many channels


class _Bottleneck(nn.Module):
    """x → project(filter(expand(x))), x added where shapes allow."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, activation: Activation, *, expands: bool):
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        expanding = [conv(inputs, hidden, 1, activation)] if expands else []
        self.layers = nn.Sequential(
            *expanding,
            conv(hidden, hidden, 3, activation, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def bottleneck(
    inputs: int, hidden: int, outputs: int, stride: int, activation: Activation, *, expands: bool = True
) -> nn.Module:
    """[N, `inputs`, H, W] → [N, `outputs`, H / `stride`, W / `stride`]; without expansion `hidden` is `inputs`."""
    return _Bottleneck(inputs, hidden, outputs, stride, activation, expands=expands)


def conv(
    inputs: int, outputs: int, kernel: int, activation: Activation, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias that keeps the size up to its stride, BN and an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation(outputs),
    )
