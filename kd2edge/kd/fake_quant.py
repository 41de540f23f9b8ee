"""Fake quantization whose steps are learned, one per tensor or per channel.

The gradient of a step is LSQ's (Esser et al., arXiv 1902.08153, equation 3); what is learned is its logarithm, as in
TQT (Jain et al., arXiv 1903.08066, section 3.3): steps stay positive, and change by shares of themselves whatever their
size. The arithmetic is `graph/scales.py`'s, so that what is trained is what the Q/DQ nodes compute.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Quantizer(nn.Module):
    """y = s · (clamp(round(x / s) + z, first, last) - z).

    `scale` s is float32 [] for a whole tensor, or [channels] along `axis` with z = 0. z is calibration's and stays.
    """

    undecayed = True  # a step is no weight: to pull it towards zero would clip

    def __init__(self, scale: Tensor, zero: int, first: int, last: int, axis: int | None = None) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(scale.detach().float().log())
        self.zero, self.first, self.last, self.axis = zero, first, last, axis

    @property
    def scale(self) -> Tensor:
        """The step."""
        return self.log_scale.exp()

    def extra_repr(self) -> str:
        return f"zero={self.zero}, {self.first}..{self.last}, axis={self.axis}"

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape → the same, float32."""
        x = x.float()
        if self.axis is None:
            result: Tensor = _PerTensor.apply(x, self.scale, self.zero, self.first, self.last)  # type: ignore[no-untyped-call]
            return result
        steps = self.scale.reshape([-1 if axis == self.axis else 1 for axis in range(x.ndim)])
        return _rounded(torch.clamp(x / steps, self.first, self.last)) * steps


def _rounded(x: Tensor) -> Tensor:
    """Round, to even at the middle, as QuantizeLinear does; the gradient passes straight through."""
    return x + (torch.round(x) - x).detach()


class _PerTensor(torch.autograd.Function):
    """A step for a whole tensor, in two passes over it: activations are large.

    ∂y/∂s is (y - x) / s inside the range and y / s outside, so the gradient of s is the difference of two dot products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: int, first: int, last: int) -> Tensor:
        point = torch.tensor(zero, dtype=torch.int32, device=x.device)
        y = torch.fake_quantize_per_tensor_affine(x, scale.detach(), point, first, last)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds = (first - zero, last - zero)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        low, high = (float(scale) * bound for bound in ctx.bounds)
        inside = torch.ops.aten.hardtanh_backward(grad.contiguous(), x.contiguous(), low, high)
        dots = (grad * y).sum(dtype=torch.float64) - (inside * x).sum(dtype=torch.float64)
        return inside, (dots / scale).to(scale.dtype).reshape(scale.shape), None, None, None
