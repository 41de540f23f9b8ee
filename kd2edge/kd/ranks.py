"""Data-parallel training: one program in several processes, as `torchrun` starts them, each on its part of a batch.

Every rank builds the same nets from the same seeds, which is checked, and in each backward pass all get the mean of
their gradients by torch's DistributedDataParallel (arXiv 2006.15704), so that they stay the same. Batch norms see their
own rank's images, unless `kd/sync_norm.py` joins them; once a stage is done, all ranks have rank 0's running
statistics, as what ships has. Rank 0 alone writes.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd2edge.errors import UserError
from kd2edge.kd import elastic, torchrun
from kd2edge.kd.crd import CRD
from kd2edge.kd.heads import Head, apart
from kd2edge.kd.method import Batch, Losses


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those that train together: `number` of `count`."""

    number: int
    count: int

    @property
    def first(self) -> bool:
        return self.number == 0

    def wait(self) -> None:
        """Until all ranks are here. Raises `UserError` where one is gone."""
        with elastic.lost():
            self.mean(torch.zeros(()))

    def part(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This rank's part of a batch's positions [N]: N / count of them."""
        return index[self.number :: self.count]

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; the same answer for all."""
        return flag if self.count == 1 else bool(self.mean(torch.tensor(float(flag))) > 0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks of a float tensor of one shape, where it is; a NaN of one is everyone's."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def parallel(self, learner: nn.Module, losses: Callable[[Batch], Losses]) -> "Parallel":
        """The losses of a learner, whose gradients become the ranks' mean in the backward pass.

        Raises `UserError` where the ranks do not start from the same bits.
        """
        self.require_same("nets", learner)
        return Parallel(self, learner, losses)

    def require(self, batch: int, learner: nn.Module) -> None:
        """Raise `UserError` for what several ranks cannot train alike: unequal parts, sampled heads, CRD's queue."""
        if batch % self.count:
            raise UserError(
                f"A batch of {batch} images does not fall into {self.count} equal parts.",
                f"set train.batch to a multiple of {self.count}",
            )
        heads = [module for module in learner.modules() if isinstance(module, Head) and module.shard is None]
        if self.count > 1 and any(head.sample < 1 for head in heads):
            raise UserError("head.sample draws other classes on every rank.", "set head.sharded=true, or head.sample=1")
        if self.count > 1 and any(isinstance(module, CRD) and module.capacity for module in learner.modules()):
            raise UserError("CRD's queue is another on every rank.", "set crd.negatives=batch, or train on one GPU")

    def require_same(self, what: str, *parts: nn.Module | npt.NDArray[np.generic]) -> None:
        """Raise `UserError` where modules or arrays are not bit for bit the same on all ranks, split heads aside."""
        if self.count == 1:
            return
        number = int.from_bytes(_digest(parts)[:7], "big")
        extremes = torch.tensor([number, -number])
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        if extremes[0] != -extremes[1]:
            raise UserError(
                f"The {self.count} processes that train together have different {what}.",
                "give all of them the same recipe, files, data and versions of kd2edge and torch",
            )


class Parallel:
    """A learner's losses on this rank's images. With one rank it is these, and nothing else.

    Which parameters the losses reach is seen in the first batch and must not change; the others keep no gradient.
    """

    def __init__(self, ranks: Ranks, learner: nn.Module, losses: Callable[[Batch], Losses]) -> None:
        self.ranks, self.learner, self.losses = ranks, learner, losses
        self._wrapped: DistributedDataParallel | None = None
        self._quiet = False

    def __call__(self, batch: Batch) -> Losses:
        """The terms of one batch, by name. The backward pass that follows is the same on all ranks, or none is."""
        if self.ranks.count == 1:
            return self.losses(batch)
        if self._wrapped is None:
            first = self.losses(batch)
            reached = _reached(first) - {id(own) for own, _ in apart(self.learner).values()}
            self._wrapped = _wrapped([p for p in self.learner.parameters() if id(p) in reached], self.losses)
            self._wrapped.module.ready = first
        with self._wrapped.no_sync() if self._quiet else nullcontext():
            terms: Losses = self._wrapped(batch)
        return terms

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Let gradients add up on each rank: for all but the last of the parts that a step is computed in."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False


class _Step(nn.Module):
    """What torch wraps: the parameters that ranks share, and the losses as its forward pass.

    Buffers are no part of it, so that torch leaves batch norms and queues alone.
    """

    def __init__(self, shared: Iterable[nn.Parameter], losses: Callable[[Batch], Losses]) -> None:
        super().__init__()
        self.shared, self.losses = nn.ParameterList(shared), losses
        self.ready: Losses | None = None

    def forward(self, batch: Batch) -> Losses:
        ready, self.ready = self.ready, None
        return self.losses(batch) if ready is None else ready


def _wrapped(shared: list[nn.Parameter], losses: Callable[[Batch], Losses]) -> DistributedDataParallel:
    """DistributedDataParallel with its buckets as they will stay.

    It packs gradients anew after the first backward pass, in the order of their arrival, and where a gradient lies in
    its bucket decides in which order more than two ranks are summed. So that a resumed training adds as an unbroken
    one does, a pass of sums makes this order first: the last parameter before the first.
    """
    step = _Step(shared, losses)
    made = DistributedDataParallel(step, init_sync=False, gradient_as_bucket_view=True)
    kept = [parameter.grad for parameter in shared]
    step.ready = {"": torch.stack([parameter.sum(dtype=torch.float32) for parameter in shared]).sum()}
    made(None)[""].backward()
    for parameter, gradient in zip(shared, kept, strict=True):
        parameter.grad = gradient
    return made


def _reached(losses: Losses) -> set[int]:
    """The ids of the parameters that a gradient of the losses comes to."""
    ahead = [term.grad_fn for term in losses.values() if term.grad_fn is not None]
    seen, found = set(ahead), set()
    while ahead:
        node = ahead.pop()
        if hasattr(node, "variable"):  # where a gradient is accumulated
            found.add(id(node.variable))
        fresh = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= fresh
        ahead.extend(fresh)
    return found


def _digest(parts: Iterable[nn.Module | npt.NDArray[np.generic]]) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        if not isinstance(part, nn.Module):
            total.update(part.tobytes())
            continue
        own = apart(part)
        for name, tensor in part.state_dict().items():
            if name not in own:
                total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.digest()


def join() -> Ranks:
    """This process's place among the ranks that torchrun started; alone where it was not started so.

    Raises `UserError` where a machine has GPUs, but fewer than processes.
    """
    count = torchrun.count()
    if count > 1 and not dist.is_initialized():
        gpus, local = torch.cuda.device_count() if torch.cuda.is_available() else 0, int(os.environ["LOCAL_RANK"])
        if gpus and local >= gpus:
            raise UserError(
                f"Process {local + 1} of this machine has no GPU: there are {gpus}.",
                f"start it with --nproc-per-node {gpus}, or without GPUs: CUDA_VISIBLE_DEVICES=''",
            )
        if gpus:
            torch.cuda.set_device(local)
        elastic.begin("cpu:gloo,cuda:nccl" if gpus else "gloo")
    return Ranks(torchrun.number(), count)
