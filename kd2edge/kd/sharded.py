"""A classifier split by classes over the ranks of a process group: no rank holds, or computes, all logits of an image.

Each rank has a head of its own classes and sees the embeddings of all ranks; a softmax is joined by its largest logit
and its sum, N numbers each. Every rank gets the same loss, the mean over all ranks' images, and its `backward` gives
this loss's gradients for the rank's own head and own embeddings. So a backbone that all ranks copy needs the *sum* of
their gradients. As insightface trains its faces (Partial FC, arXiv 2203.15565); with `sampled`, on shares of classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2edge.kd import partial
from kd2edge.kd.heads import Head

Group = dist.ProcessGroup | None  # None: all ranks


def shard(classes: int, rank: int, ranks: int) -> tuple[int, int]:
    """The classes [first, beyond) of a rank: consecutive, and as even as they come."""
    return classes * rank // ranks, classes * (rank + 1) // ranks


def columns(labels: Tensor, first: int, count: int) -> Tensor:
    """Labels [N] as columns of the shard of `count` classes from `first` on; -1 where another rank has one."""
    here = (labels >= first) & (labels < first + count)
    return torch.where(here, labels - first, -1)


@contextmanager
def sampled(own_columns: Tensor, own: Head, *others: Head) -> Iterator[Tensor]:
    """`partial.drawn` on a rank's shard: its share of its own classes, the batch's always; -1 stays -1."""
    here = own_columns >= 0
    with partial.drawn(own_columns[here], own, *others) as positions:
        yield own_columns.masked_scatter(here, positions)


def gather(rows: Tensor, group: Group = None, weight: int = 1) -> Tensor:
    """[N, d] of each rank → [ranks · N, d] on all, in order of rank; N must be equal everywhere. Differentiable.

    Gradients are multiplied by `weight`: by the number of ranks, where what made the rows gets their mean.
    """
    found: Tensor = _Gather.apply(rows, group, weight)  # type: ignore[no-untyped-call]
    return found


def log_softmax(logits: Tensor, group: Group = None) -> Tensor:
    """A rank's columns [N, k] of the log-softmax over the classes of all ranks, float32. Differentiable."""
    found: Tensor = _LogSoftmax.apply(logits.float(), group)  # type: ignore[no-untyped-call]
    return found


def cross_entropy(head: Head, logits: Tensor, own_columns: Tensor, group: Group = None) -> Tensor:
    """Cross-entropy over all ranks' classes, the head's margin applied; a scalar, mean over the N images.

    `logits` [N, k] are the rank's own, `own_columns` [N] as `columns` or `sampled` gives them.
    """
    rows = (own_columns >= 0).nonzero()[:, 0]
    labels = own_columns[rows]
    logits = logits.float().index_copy(0, rows, head.with_margin(logits[rows], labels).float())
    return -_total(log_softmax(logits, group)[rows, labels].sum(), group) / len(own_columns)


def kl(student: Tensor, teacher: Tensor, tau: float, group: Group = None) -> Tensor:
    """`losses.kl` of logits [N, k] that are each rank's own columns, of the same classes."""
    log_s, log_t = log_softmax(student / tau, group), log_softmax(teacher / tau, group)
    return _total(F.kl_div(log_s, log_t, reduction="sum", log_target=True), group) * tau**2 / len(student)


def _total(part: Tensor, group: Group) -> Tensor:
    total: Tensor = _Total.apply(part, group)  # type: ignore[no-untyped-call]
    return total


class _Gather(torch.autograd.Function):
    """All ranks' rows. A row's gradient is the sum of what each rank's classes say of it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group, weight: int) -> Tensor:
        ctx.group, ctx.count, ctx.weight = group, len(rows), weight
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient * ctx.weight if ctx.weight > 1 else gradient.clone()
        dist.all_reduce(gradient, group=ctx.group)
        first = dist.get_rank(ctx.group) * ctx.count
        return gradient[first : first + ctx.count], None, None


class _LogSoftmax(torch.autograd.Function):
    """x − log Σ exp x, the sum over all ranks' columns. ∂L/∂x = g − softmax(x) · Σ g, this sum over all of them too."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, group: Group) -> Tensor:
        largest = logits.amax(1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        shifted = logits - largest[:, None]
        total = shifted.exp().sum(1)
        dist.all_reduce(total, group=group)
        ctx.group, result = group, shifted.sub_(total.log()[:, None])
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        total = gradient.sum(1)
        dist.all_reduce(total, group=ctx.group)
        return gradient - result.exp().mul_(total[:, None]), None


class _Total(torch.autograd.Function):
    """The sum of all ranks' parts. Each rank holds the same sum, so its gradient is each part's own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
