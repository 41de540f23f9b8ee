"""An exponential moving average of what trains, which is what ships of it: Polyak's averaging, as in arXiv 1703.01780.

In the first steps the decay is (1 + n) / (10 + n), so that a short training does not ship its random start.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The average of a learner's trained parameters and floating-point buffers, float32 like them, on its device.

    Integer buffers, such as a batch norm's count, are the learner's own.
    """

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.learner, self.decay, self.steps = learner, decay, 0
        self.kept = {name: tensor.detach().clone() for name, tensor in _averaged(learner).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the learner as it is after one more step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = _averaged(self.learner)
        torch._foreach_lerp_(list(self.kept.values()), [now[name].detach() for name in self.kept], 1 - decay)

    @torch.no_grad()
    def ship(self) -> None:
        """Put the average into the learner."""
        now = _averaged(self.learner)
        for name, kept in self.kept.items():
            now[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, kept in self.kept.items():
            kept.copy_(state["kept"][name])


def _averaged(learner: nn.Module) -> dict[str, Tensor]:
    trained = {name: parameter for name, parameter in learner.named_parameters() if parameter.requires_grad}
    return trained | {name: buffer for name, buffer in learner.named_buffers() if buffer.is_floating_point()}
