"""An exponential moving average of what trains, which is what ships of it: Polyak's averaging, as in arXiv 1703.01780.

In the first steps the decay is (1 + n) / (10 + n), so that a short training does not ship its random start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The average of a learner's trained parameters and floating-point buffers, float32 like them, on its device.

    Integer buffers, such as a batch norm's count, are the learner's own.
    """

    def __init__(self, learner: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.now = _averaged(learner)
        self.kept = {name: tensor.clone() for name, tensor in self.now.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the learner as it is after one more step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.kept.values()), list(self.now.values()), 1 - decay)

    @torch.no_grad()
    def ship(self) -> None:
        """Put the average into the learner."""
        torch._foreach_copy_(list(self.now.values()), list(self.kept.values()))

    @contextmanager
    def shipped(self) -> Iterator[None]:
        """The learner is its average until the block ends, then bit for bit what it was."""
        before = {name: tensor.clone() for name, tensor in self.now.items()}
        self.ship()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self.now.values()), list(before.values()))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, kept in self.kept.items():
            kept.copy_(state["kept"][name])


def _averaged(learner: nn.Module) -> dict[str, Tensor]:
    """The learner's own memory: training changes it in place."""
    trained = {name: parameter for name, parameter in learner.named_parameters() if parameter.requires_grad}
    floating = {name: buffer for name, buffer in learner.named_buffers() if buffer.is_floating_point()}
    return {name: tensor.detach() for name, tensor in (trained | floating).items()}
