"""Data-parallel training: one program in several processes, as `torchrun` starts them, each on its part of a batch.

Every rank builds the same nets from the same seeds, and after each step all have the mean of their gradients, so that
they stay the same. Batch norms see their own rank's images, as everywhere in the field; once a stage is done, all ranks
have rank 0's running statistics, as what ships has. Rank 0 alone writes.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import torchrun
from kd2edge.kd.crd import CRD


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those that train together: `number` of `count`."""

    number: int
    count: int

    @property
    def first(self) -> bool:
        return self.number == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def part(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This rank's part of a batch's positions [N]: N / count of them."""
        return index[self.number :: self.count]

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; the same answer for all."""
        return flag if self.count == 1 else bool(self.mean(torch.tensor(float(flag))) > 0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks of a float tensor of one shape; a NaN of one is everyone's."""
        if self.count == 1:
            return values
        total = values.detach().clone().to(_device())
        dist.all_reduce(total)
        return (total / self.count).to(values.device)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the mean over ranks in the place of each gradient."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        means = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(means, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def require(self, batch: int, learner: nn.Module) -> None:
        """Raise `UserError` for what several ranks cannot train alike: unequal parts, sampled heads, CRD's queue."""
        if batch % self.count:
            raise UserError(
                f"A batch of {batch} images does not fall into {self.count} equal parts.",
                f"set train.batch to a multiple of {self.count}",
            )
        if self.count > 1 and any(getattr(module, "sample", 1) < 1 for module in learner.modules()):
            raise UserError("head.sample draws other classes on every rank.", "set head.sample=1, or train on one GPU")
        if self.count > 1 and any(isinstance(module, CRD) and module.capacity for module in learner.modules()):
            raise UserError("CRD's queue is another on every rank.", "set crd.negatives=batch, or train on one GPU")


def join() -> Ranks:
    """This process's place among the ranks that torchrun started; alone where it was not started so."""
    count = torchrun.count()
    if count > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(int(os.environ["RANK"]) if count > 1 else 0, count)


def _device() -> torch.device:
    """Where the back end reduces."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
