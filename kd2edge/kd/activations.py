"""PReLU as training computes it faster: torch's own backward pass took 45 % of a MobileFaceNet's step on one core."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class PReLU(nn.PReLU):
    """max(x, 0) + a·min(x, 0) of [N, C, …], a slope a channel; its gradient is made of operations that are vectorised.

    In evaluation it is torch's own operator, which exporters know. Both give the same values bit for bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        slopes = self.weight.to(x.dtype)
        if torch.compiler.is_compiling():  # which makes one pass of all this by itself
            above = torch.relu(x)
            return above + slopes.view(1, -1, *[1] * (x.ndim - 2)) * (x - above)
        result: Tensor = _Trained.apply(x, slopes)  # type: ignore[no-untyped-call]
        return result


class _Trained(torch.autograd.Function):
    """Slopes [C] in the type of x; where x is 0 or less its gradient is the slope's, as torch's own is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(x, slopes)
        return F.prelu(x, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, slopes = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradient, x, 0)
        below = gradient - above
        towards_slopes = (below * x).sum([0, *range(2, x.ndim)])
        return torch.addcmul(above, below, slopes.view(1, -1, *[1] * (x.ndim - 2))), towards_slopes
