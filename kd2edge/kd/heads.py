"""Classifiers on an embedding: linear, and cosine heads whose margin is seen by the supervised loss only.

CosFace: s·(cos θ − m), arXiv 1801.09414 eq. 4. ArcFace: s·cos(θ + m), arXiv 1801.07698 eq. 3.
"""

import copy
import math
from contextlib import AbstractContextManager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2edge import schema
from kd2edge.errors import UserError
from kd2edge.kd import losses
from kd2edge.kd.cosines import cosines
from kd2edge.kd.rows import rows


class Shard(Protocol):
    """What a head asks where it has some of the classes only, and other processes the rest: see `kd/shards.py`."""

    def everyones(self, embedding: Tensor) -> Tensor:
        """The embeddings [N, d] of all processes' images."""

    def sampled(self, labels: Tensor, own: "Head", *others: "Head") -> AbstractContextManager[Tensor]:
        """`partial.sampled`, for all processes' images and the classes that are here."""

    def cross_entropy(self, own: "Head", logits: Tensor, columns: Tensor) -> Tensor:
        """Of logits [N, k] as the head gives them, and columns as `sampled` does."""

    def kl(self, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
        """`losses.kl` over all classes, of logits [N, k] that are those of the same ones."""


class Head(nn.Module):
    """Logits of `classes` classes from an embedding [N, d]; `weight` is [classes, d], `bias` [classes] or None.

    `sample` is the share of classes that a step of its training shall see. While `kd/partial.py` has set `chosen`, an
    ascending index [k] of classes, the logits are those of these alone, [N, k], and no other row gets a gradient. With
    a `shard` they are those of its own classes and of all processes' images; what logits are compared by is here, too.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    sample: float = 1.0
    chosen: Tensor | None = None
    shard: Shard | None = None

    def centres(self) -> Tensor:
        """The rows of `weight` that are in play: all, or those of the chosen classes."""
        return self.weight if self.chosen is None else rows(self.weight, self.chosen)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.logits(embedding if self.shard is None else self.shard.everyones(embedding))

    def logits(self, embedding: Tensor) -> Tensor:
        """The logits of embeddings [N, d] for the classes that are here and in play."""
        raise NotImplementedError

    def with_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits for the supervised loss: the margin, if any, applied at each sample's own class."""
        return logits

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """With labels [N] that are columns of the logits, the margin applied; a scalar, mean over the batch."""
        if self.shard is not None:
            return self.shard.cross_entropy(self, logits, labels)
        return F.cross_entropy(self.with_margin(logits, labels).float(), labels)

    def kl(self, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
        """`losses.kl` of two nets' logits for the classes of this head."""
        return losses.kl(student, teacher, tau) if self.shard is None else self.shard.kl(student, teacher, tau)


class Linear(Head):
    """g(z) = W z + b."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.adopt(nn.Linear(width, classes))

    def adopt(self, layer: nn.Linear) -> None:
        """Take over the parameters of a linear layer."""
        self.weight = nn.Parameter(layer.weight.detach())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach())

    def logits(self, embedding: Tensor) -> Tensor:
        bias = self.bias if self.bias is None or self.chosen is None else self.bias[self.chosen]
        return F.linear(embedding, self.centres(), bias)


class Cosine(Head):
    """s·cos θ between the embedding and each class centre; no bias."""

    def __init__(self, width: int, classes: int, scale: float, margin: float, sample: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.normal_(self.weight, std=0.01)
        self.bias = None
        self.scale, self.margin, self.sample = scale, margin, sample

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}" + (f", sample={self.sample}" if self.sample < 1 else "")

    def logits(self, embedding: Tensor) -> Tensor:
        return self.scale * cosines(F.normalize(embedding), self.centres())


class CosFace(Cosine):
    """s·(cos θ − m) at the true class."""

    def with_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return logits - self.scale * self.margin * own


class ArcFace(Cosine):
    """s·cos(θ + m) at the true class; beyond θ = π − m it goes on linearly, so that it stays monotone in θ."""

    def with_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels), device=logits.device)
        cos = (logits[rows, labels].float() / self.scale).clamp(-1 + 1e-6, 1 - 1e-6)
        shifted = torch.cos(torch.acos(cos) + self.margin)
        beyond = cos <= -math.cos(self.margin)
        shifted = torch.where(beyond, cos - self.margin * math.sin(self.margin), shifted)
        return logits.float().index_put((rows, labels), self.scale * shifted)


class MixedHead(Head):
    """log[(1 − a)·softmax(g(z)) + a·softmax(g_t(A z))]: a mix of two heads' probabilities, told as logits.

    `bridge` A leads from the embedding to what `theirs` g_t takes. HeadSharingKD's prediction, arXiv 2201.06945.
    """

    def __init__(self, own: Head, bridge: nn.Module, theirs: Head, mix: float) -> None:
        super().__init__()
        self.own, self.bridge, self.theirs, self.mix = own, bridge, theirs, mix

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        return self.own.weight

    @property
    def bias(self) -> nn.Parameter | None:  # type: ignore[override]
        return self.own.bias

    def logits(self, embedding: Tensor) -> Tensor:
        own = F.log_softmax(self.own(embedding), dim=1) + math.log(1 - self.mix)
        theirs = F.log_softmax(self.theirs(self.bridge(embedding)), dim=1) + math.log(self.mix)
        return torch.logsumexp(torch.stack([own, theirs]), dim=0)


def apart(module: nn.Module) -> dict[str, tuple[nn.Parameter, Head]]:
    """The parameters of heads that have some of the classes only, by name in the module's state dict."""
    heads = [(place, inner) for place, inner in module.named_modules() if isinstance(inner, Head) and inner.shard]
    return {
        f"{place}.{name}" if place else name: (parameter, head)
        for place, head in heads
        for name, parameter in head.named_parameters(recurse=False)
    }


def worn(head: Head) -> Head:
    """A frozen copy of a head, for another net to wear."""
    copied = copy.deepcopy(head).requires_grad_(False)
    return copied.eval()


@torch.no_grad()
def start_from(own: Head, theirs: Head) -> None:
    """Set a head to another's weights. Raises `UserError` where their shapes differ."""
    if own.weight.shape != theirs.weight.shape or (own.bias is None) != (theirs.bias is None):
        shapes = f"{tuple(own.weight.shape)} and {tuple(theirs.weight.shape)}"
        raise UserError(
            f"The student's head cannot start from the teacher's: they are {shapes}, or only one has a bias.",
            "give both nets the same `embedding` and head, or leave method.init_head out",
        )
    own.weight.copy_(theirs.weight)
    if own.bias is not None and theirs.bias is not None:
        own.bias.copy_(theirs.bias)


def build(spec: schema.Head, width: int, classes: int) -> Head:
    """The head a recipe names, for embeddings of `width` dimensions."""
    if spec.name == "linear":
        return Linear(width, classes)
    kind = {"cosine": Cosine, "cosface": CosFace, "arcface": ArcFace}[spec.name]
    return kind(width, classes, spec.scale, spec.margin, spec.sample)
