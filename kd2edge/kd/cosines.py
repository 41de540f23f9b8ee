"""Cosines with very many class centres, without a second matrix of centres that holds them at unit length.

Centres are normalised block by block, and again in the backward pass, which so needs one matrix of their size, the
gradient, where torch's own keeps three. Few centres go the plain way: one block of them would be no smaller. So does
what is exported, whose graph shall not be made of blocks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 8192  # centres
AT_ONCE = 1024  # centres of one block


def cosines(unit: Tensor, centres: Tensor) -> Tensor:
    """cos θ [N, k] of rows of unit length [N, d] and centres [k, d] of any; bfloat16 under its autocast."""
    if len(centres) <= FEW or torch.compiler.is_exporting():
        return F.linear(unit, F.normalize(centres))
    found: Tensor = _Blocks.apply(unit, centres)  # type: ignore[no-untyped-call]
    return found


class _Blocks(torch.autograd.Function):
    """The same, `AT_ONCE` centres at a time."""

    @staticmethod
    def forward(ctx: Any, unit: Tensor, centres: Tensor) -> Tensor:
        ctx.save_for_backward(unit, centres)
        result = F.linear(unit[:, :0], unit[:0, :0]).new_empty(len(unit), len(centres))  # of autocast's type
        for block in _blocks(centres):
            result[:, block] = F.linear(unit, F.normalize(centres[block]))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        unit, centres = ctx.saved_tensors
        towards_unit = torch.zeros_like(unit)
        towards_centres = torch.empty_like(centres) if ctx.needs_input_grad[1] else None
        for block in _blocks(centres):
            with torch.enable_grad():
                raw = centres[block].detach().requires_grad_()
                normal = F.normalize(raw)
            part = gradient[:, block]
            towards_unit += part @ normal.detach().to(part.dtype)
            if towards_centres is not None:
                pull = (part.T @ unit.to(part.dtype)).to(centres.dtype)
                (towards_centres[block],) = torch.autograd.grad(normal, raw, pull)
        return towards_unit, towards_centres


def _blocks(centres: Tensor) -> list[slice]:
    return [slice(first, first + AT_ONCE) for first in range(0, len(centres), AT_ONCE)]
