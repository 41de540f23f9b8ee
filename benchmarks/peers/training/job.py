"""What a contender's process is asked to train, and where its steps begin and end."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd2edge.schema import Section

STEPS = "steps"


class Job(Section):
    """Train `subject` as `contender` does, on `images` (uint8 [N, H, W, C], .npy) and `labels` (int64 [N], .npy).

    `changed` names what of kd2edge is left out, or put in; `augment` off is for comparing losses to the last digit.
    """

    subject: str
    contender: str
    images: Path
    labels: Path
    classes: int
    folder: Path
    device: str = "cpu"
    seed: int = 0
    workers: int = 2
    weights: Path | None = None
    changed: str | None = None
    augment: bool = True
    precision: str = "auto"


class Done(BaseException):
    """No more steps are asked for. Not an `Exception`, so that no training loop takes it for a fault."""


class Blocks:
    """Runs a training a block of steps at a time, and waits between blocks: `begin` stands where a step begins.

    A block's seconds are from the beginning of its first step to the beginning of the step behind it, the device's work
    done; so they hold all that a loop does, reading, augmenting, logging. Each block is answered by its seconds and the
    losses of its steps.
    """

    def __init__(self, reply: Callable[..., None], device: str) -> None:
        self.reply, self.on_gpu = reply, device == "cuda"
        self.left = 0
        self.losses: list[Tensor | float] = []
        self.notes: dict[str, Any] = {}
        self.began: float | None = None
        self.opened = time.perf_counter()

    def begin(self) -> None:
        """Where a step begins. Raises `Done` when no further block is asked for."""
        if self.left == 0:
            self._settle()
            self._answer()
            line = sys.stdin.readline()
            if not line:
                raise Done
            self.left = int(json.loads(line)[STEPS])
            self.began = time.perf_counter()
        self.left -= 1

    def seen(self, loss: Tensor | float) -> None:
        """Take the loss of a step, which may still be on its device."""
        self.losses.append(loss)

    def _answer(self) -> None:
        if self.began is None:
            self.reply(opened=time.perf_counter() - self.opened, notes=self.notes)
            return
        seconds = time.perf_counter() - self.began
        self.reply(seconds=seconds, losses=[float(loss) for loss in self.losses])
        self.losses = []

    def _settle(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
