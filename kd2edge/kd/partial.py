"""A step on a share of the classes: the batch's own, and others drawn at random. Partial FC, arXiv 2203.15565.

While heads are narrowed, all their logits are of the drawn classes alone, the student's, the teacher's and those of the
teacher's head on the student's embedding. A softmax of them is one over the sample, so cross-entropy compares a sample
with its own class and the drawn ones, and KL compares what both nets say given that it is one of these.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kd2edge.kd.heads import Head


def choose(labels: Tensor, classes: int, share: float) -> Tensor:
    """The classes of one step, int64 [k], ascending: all in `labels` [N], which may be empty, and others.

    k is ⌈share · classes⌉, or the number of classes in `labels` where that is more. Others are equally likely, drawn by
    torch's global generator, which training seeds in each step.
    """
    own: Tensor = torch.unique(labels)
    order = torch.rand(classes, device=labels.device).index_fill_(0, own, 2.0)
    count = max(math.ceil(share * classes), len(own))
    return order.topk(count, sorted=False).indices.sort().values


@contextmanager
def narrowed(chosen: Tensor, *heads: Head) -> Iterator[None]:
    """Let heads give the logits of the chosen classes [k] alone, ascending."""
    before = [head.chosen for head in heads]
    try:
        for head in heads:
            head.chosen = chosen
        yield
    finally:
        for head, earlier in zip(heads, before, strict=True):
            head.chosen = earlier


@contextmanager
def sampled(labels: Tensor, own: Head, *others: Head) -> Iterator[Tensor]:
    """Draw `own.sample` of the classes and narrow the heads to them; gives labels [N] as columns of their logits.

    With sample = 1 nothing is drawn, and nothing changes. Where the heads' classes are split over processes, each draws
    among its own, and the labels are those of all their images.
    """
    with drawn(labels, own, *others) if own.shard is None else own.shard.sampled(labels, own, *others) as columns:
        yield columns


@contextmanager
def drawn(labels: Tensor, own: Head, *others: Head) -> Iterator[Tensor]:
    """`sampled` among the classes that are here, the labels being these alone."""
    if own.sample == 1:
        yield labels
        return
    chosen = choose(labels, len(own.weight), own.sample)
    with narrowed(chosen, own, *others):
        yield torch.searchsorted(chosen, labels)
