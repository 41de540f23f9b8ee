"""The contract of a distillation method: the stages it trains, and what it ships.

The stages come from a generator, so that one stage is prepared after the one before it has trained.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kd2edge import schema, shelves
from kd2edge.errors import UserError
from kd2edge.kd.net import Net, Out, Shape
from kd2edge.kd.tasks import Task


@dataclass(frozen=True)
class Batch:
    """Augmented, normalised images [N, C, H, W] float32 and labels [N] int64."""

    images: Tensor
    labels: Tensor


Losses = dict[str, Tensor]


@dataclass
class Stage:
    """One training. `losses` gives the weighted terms of one batch, by name; the loop sums and minimises them.

    `learner` is trained and saved (only parameters that require gradients change); `frozen` modules are kept in
    evaluation mode. `schedule` defaults to the recipe's, `share` scales its number of epochs.
    """

    name: str
    learner: nn.Module
    losses: Callable[[Batch], Losses]
    frozen: tuple[nn.Module, ...] = ()
    share: float = 1.0
    schedule: schema.Train | None = None


class Method:
    """Base of the methods shelf: one subclass per file, whose `Config` is the recipe's `method` section."""

    class Config(shelves.PluginConfig):
        """Its section of a recipe."""

    needs_teacher: ClassVar[bool] = True

    def __init__(
        self, config: shelves.PluginConfig, task: Task, shape: Shape, student: Net, teacher: Net | None
    ) -> None:
        self.task, self.shape, self.student = task, shape, student
        self._teacher = teacher

    @property
    def teacher(self) -> Net:
        """The frozen teacher. Raises `UserError` when the recipe has none."""
        if self._teacher is None:
            raise UserError("This method learns from a teacher, and the recipe has none.", "add a `teacher` section")
        return self._teacher

    def stages(self) -> Iterator[Stage]:
        """The trainings, in order."""
        raise NotImplementedError

    def deployable(self) -> Net:
        """The net that ships. Default: the student."""
        return self.student

    def taught(self, batch: Batch) -> Out:
        """The teacher's outputs on a batch, without gradients."""
        with torch.no_grad():
            out: Out = self.teacher(batch.images)
        return out
