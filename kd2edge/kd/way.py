"""How a stage's nets compute: on which device, in which precision, compiled or not, the teacher as quick as it may be.

A fixed rule decides, never a timing, so that the same recipe on the same machine computes the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd2edge import schema
from kd2edge.data import InMemory, Split
from kd2edge.errors import UserError
from kd2edge.kd import compiled, depthwise, devices, heap, quick_teacher, store, sync_norm
from kd2edge.kd.augment import Preparation
from kd2edge.kd.method import Stage
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.spans import About

PROBE = 64  # images that show whether a teacher may be computed quicker


@dataclass(frozen=True)
class Way:
    """What a recipe's words came to; `batch` is the images of a step over all processes."""

    batch: int
    device: torch.device
    precision: str
    mode: compiled.Mode

    def facts(self) -> list[object]:
        """It as JSON, for keys, with the code that goes it."""
        return [self.batch, self.device.type, self.precision, self.mode, quick_teacher.FORM, store.code()]


def resolve(plan: schema.Train, batch: int, steps: int, size: tuple[int, int]) -> Way:
    """The way of a stage of so many steps, on images of (H, W) pixels. Raises `UserError` where it cannot be gone."""
    device = devices.find(plan.device)
    mode = compiled.resolve(plan.compile, device, steps, size)
    if mode == "graphs" and plan.accumulate > 1:  # pytorch issue 169545
        raise UserError(
            "CUDA graphs overwrite the gradients of a step's earlier parts.",
            "set train.compile=on, or train.accumulate=1",
        )
    return Way(batch, device, devices.precision(plan.precision, device), mode)


@contextmanager
def computing(
    stage: Stage, way: Way, data: Split, how: schema.Preprocessing, joined: Ranks | None, say: Callable[[str], None]
) -> Iterator[None]:
    """The stage's nets where and as they train until the block ends, and then on the processor as they were.

    With `joined` the learner's batch norms take their statistics over these ranks.
    """
    with ExitStack() as during:
        enter = during.enter_context
        if way.device.type == "cpu":
            enter(heap.kept())
        enter(devices.placed(way.device, stage.learner, *stage.frozen))
        enter(depthwise.in_float32(way.device, way.precision, stage.learner))
        if joined is not None:
            enter(sync_norm.synchronised(stage.learner, True, joined))
        for module in stage.frozen:
            module.eval()
        if stage.frozen:
            images = _probe(data, how, way.device)
            done = enter(quick_teacher.quickened(stage.frozen, stage.learner, images, way.precision))
            if done:
                say(f"stage {stage.name}: {done}")
        enter(compiled.nets(way.mode, stage.learner, *stage.frozen))
        yield


def _probe(data: Split, how: schema.Preprocessing, device: torch.device) -> Tensor:
    """The first training images as nets take them, the same on every process and at every resume."""
    images = torch.from_numpy(data.read(np.arange(min(PROBE, len(data)))))
    return Preparation(schema.Augment(), how, device)(images.to(device))


def about(
    stage: Stage, way: Way, data: Split, how: schema.Preprocessing, plan: schema.Train, joined: Ranks, remembered: bool
) -> About:
    """It in the words of a profile."""
    return About(
        name=stage.name,
        batch=way.batch // joined.count,
        size=how.size,
        device=way.device,
        precision=way.precision,
        compiled=way.mode,
        held=isinstance(data, InMemory),
        plan=plan,
        recallable=stage.taught_by is not None and joined.count == 1,
        remember=remembered,
    )
