"""Depthwise convolutions that a processor differentiates in float32 far quicker than in bfloat16.

oneDNN has no quick kernel for the bfloat16 gradient of a strided one's input, nor of a wide one's weights: for
[16, 128, 56, 56] and stride 2 it takes 38 ms against 1.8, and three such took a third of a MobileFaceNet's step (one
core, AVX-512 with bf16, torch 2.13).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WIDE = 3  # pixels of a kernel's side, beyond which its weights' gradient is the slower one in bfloat16

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@contextmanager
def in_float32(device: torch.device, precision: str, learner: nn.Module) -> Iterator[None]:
    """Compute those of a learner in float32 until the block ends; they still hand on what autocast asks for."""
    lower = device.type == "cpu" and precision != "fp32"
    slow = [m for m in learner.modules() if isinstance(m, nn.Conv2d) and _is_slow(m)] if lower else []
    for layer in slow:
        layer._conv_forward = _exact(layer._conv_forward)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for layer in slow:
            del layer._conv_forward


def _is_slow(layer: nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels > 1 and (max(layer.stride) > 1 or max(layer.kernel_size) > WIDE)


def _exact(usual: Convolve) -> Convolve:
    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            return usual(x.float(), weight, bias).to(kind)

    return convolve
