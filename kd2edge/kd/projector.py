"""What stands between a SimKD student's trunk and the teacher's classifier, and what it costs. arXiv 2203.14001."""

from typing import Literal

import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd.net import Net, Out, Shape


class Projector(nn.Sequential):
    """1x1, 3x3 and 1x1 convolutions, each with BN and ReLU: [N, `given`, H, W] → [N, `wanted`, H, W].

    The hidden width h is `wanted` / `factor`, at least 1; the parameters are then
    given·h + 9h² + h·wanted + 4h + 2·wanted, with 9h in place of 9h² where the 3x3 convolution is depthwise.
    Without `relu` the last ReLU is left out, for teachers whose feature map may be negative.
    """

    def __init__(self, given: int, wanted: int, factor: int, relu: bool, depthwise: bool) -> None:
        hidden = max(1, wanted // factor)
        groups = hidden if depthwise else 1
        layers = [
            *_convolution(given, hidden, 1),
            *_convolution(hidden, hidden, 3, groups),
            *_convolution(hidden, wanted, 1),
        ]
        super().__init__(*(layers if relu else layers[:-1]))

    def macs(self, size: tuple[int, int]) -> int:
        """Multiply-accumulates of the convolutions for one map of that height and width."""
        weights = sum(layer.weight.numel() for layer in self if isinstance(layer, nn.Conv2d))
        return weights * size[0] * size[1]


def _convolution(inputs: int, outputs: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class ProjectedTrunk(nn.Module):
    """A student's backbone and the projector behind it, with pooling to `shrink` (height, width) between if given."""

    def __init__(self, backbone: nn.Module, projector: Projector, shrink: tuple[int, int] | None) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector
        self.pool: nn.Module = nn.Identity() if shrink is None else nn.AdaptiveAvgPool2d(shrink)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        out: Tensor = self.projector(self.pool(features[0] if isinstance(features, tuple) else features))
        return out


@torch.no_grad()
def neck_behind_map(teacher: Net, shape: Shape) -> nn.Module:
    """What leads from the frozen teacher's last feature map [N, C, H, W] to its embedding [N, d].

    A backbone that pools by its own means left the pooling out of the neck; here it is put back before it. That is
    right only where average pooling alone follows the map, which is tried on noise; raises `UserError` where more does.
    """
    if not getattr(teacher.backbone, "pools", False):
        return teacher.neck
    noise = torch.randn(2, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
    fmap, pooled = teacher.backbone(noise)
    mean = fmap.mean((2, 3))
    if mean.shape != pooled.shape or (mean - pooled).abs().max() > 1e-3 * pooled.abs().max():
        raise UserError(
            "SimKD needs a teacher with nothing but average pooling between its last feature map and its classifier; "
            f"this one has more at {shape.size[0]}×{shape.size[1]} pixels.",
            "raise data.size where that map has a single pixel, or choose another teacher.model or method",
        )
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), teacher.neck)


def shipped_parameters(net: Net, output: Literal["logits", "embedding"], shape: Shape) -> int:
    """Number of parameters, those of BN included, that the net's `output` depends on; leaves it in evaluation mode.

    Layers that it does not depend on, as those behind the map in a backbone of another library, are no part of an
    exported graph. Which they are is found by differentiating the output once.
    """
    tracked = {name: parameter.detach().requires_grad_() for name, parameter in net.named_parameters()}
    images = torch.zeros(1, shape.channels, *shape.size)
    with torch.enable_grad():
        out: Out = torch.func.functional_call(net.eval(), tracked, images)
        gradients = torch.autograd.grad(getattr(out, output).sum(), list(tracked.values()), allow_unused=True)
    used = (p for p, gradient in zip(tracked.values(), gradients, strict=True) if gradient is not None)
    return sum(parameter.numel() for parameter in used)
