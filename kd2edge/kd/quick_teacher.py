"""The frozen teacher, computed quicker for the time of a stage: the same answers within a stated tolerance.

Its batch norms are folded into its convolutions, and it computes in the training's precision where that tells on a
probe batch no more than `TOLERANCE`, else in fp32; on a processor, convolutions do the sums and the activations behind
them. Its head stays as it is: methods put students under it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kd2edge.kd import devices, ranks
from kd2edge.kd.fold import folded
from kd2edge.kd.fused import fused
from kd2edge.kd.heads import Head
from kd2edge.kd.net import Net

Answers = tuple[Tensor, Tensor, Tensor]
FORM = "fused-1"  # for keys: which form a teacher takes follows from this, its weights and the probe batch alone
ROUNDING = (1e-4, 1e-4, 1e-4)  # as below: folding changes the order of operations and nothing else
TOLERANCE = (0.05, 0.05, 0.01)
"""How far a lower precision may be from fp32, as means over images: ‖a − b‖ / ‖b‖ of feature map and of embedding, and
the total variation between the softmaxes. What augmentation does to an image is far more: to mirror it moves the
published ResNet-56's CIFAR-10 maps by 0.77 and embeddings by 0.23; bf16 moves them by 0.011 and 0.006, its softmaxes by
0.00002."""


@contextmanager
def quickened(frozen: Sequence[nn.Module], learner: nn.Module, images: Tensor, precision: str) -> Iterator[str | None]:
    """Compute frozen nets quicker until the block ends; gives a sentence on what was done, if anything was.

    `images` [N, C, H, W] are the probe batch, the same for every resumption; `precision` is the training's: fp32, bf16
    or fp16. Only a `Net` all of whose parameters are constant and no part of `learner` is touched: its backbone and
    neck are others meanwhile, and the very same ones again afterwards. Whoever holds these by other names sees nothing.
    """
    with ExitStack() as restored:
        told = []
        for module in frozen:
            if isinstance(module, Net) and _is_constant(module, learner):
                restored.callback(_put, module, module.backbone, module.neck)
                told.append(_quicken(module.eval(), images, precision))
        yield "; ".join(filter(None, told)) or None


def _is_constant(net: Net, learner: nn.Module) -> bool:
    learned = {id(tensor) for tensor in learner.parameters()}
    return not any(parameter.requires_grad or id(parameter) in learned for parameter in net.parameters())


def _put(net: Net, backbone: nn.Module, neck: nn.Module) -> None:
    net.backbone, net.neck = backbone, neck


def _quicken(net: Net, images: Tensor, precision: str) -> str:
    """Give a net its quickest backbone and neck that answer alike; says what was done, the same on all ranks."""
    plain = Trunk(net.backbone, net.neck)
    wanted = _answers(plain, net.head, images, "fp32")
    quick, told = plain, []
    copied, count = folded(plain, images[:2])
    if count and _within(_distances(_answers(copied, net.head, images, "fp32"), wanted), ROUNDING):
        assert isinstance(copied, Trunk)
        quick, told = copied, [f"{count} batch norms folded into the layers before them"]
    exact = False
    if precision != "fp32":
        distances = _distances(_answers(quick, net.head, images, precision), wanted)
        exact = not _within(distances, TOLERANCE)
        off = f"{max(distances):.1%} off"
        told.append(f"in fp32, {precision} being {off}" if exact else f"in {precision}, {off} fp32")
    kept = "fp32" if exact else precision
    if count := _fuse(quick, net.head, images, kept, wanted):
        told.append(f"{count} convolutions fused with what follows them")
    backbone, neck = quick.backbone, quick.neck
    net.backbone, net.neck = (_Exact(backbone), _Exact(neck)) if exact else (backbone, neck)
    return f"teacher {', '.join(told)}" if told else ""


def _within(distances: Sequence[float], most: Sequence[float]) -> bool:
    """Whether no distance is larger than it may be, on any rank."""
    return not ranks.join().any(not all(found <= limit for found, limit in zip(distances, most, strict=True)))


class Trunk(nn.Module):
    """Images → (feature map, embedding), so that a norm in the neck is seen behind a layer in the backbone."""

    def __init__(self, backbone: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        fmap, pooled = features if isinstance(features, tuple) else (features, features)
        return fmap, self.neck(pooled)


class _Exact(nn.Module):
    """A module in fp32, whatever autocast is on."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return self.body(x.float())


def _fuse(quick: Trunk, head: Head, images: Tensor, precision: str, wanted: Answers) -> int:
    """Give a trunk a fused backbone that answers as `wanted`; how many convolutions do more than before, 0 if none."""
    made = fused(quick.backbone, images[:2], devices.DTYPES[precision])
    distances = [math.inf] * len(TOLERANCE)
    if made is not None:
        distances = _distances(_answers(Trunk(made[0], quick.neck), head, images, precision), wanted)
    if not _within(distances, ROUNDING if precision == "fp32" else TOLERANCE) or made is None:
        return 0
    quick.backbone, count = made
    return count


@torch.no_grad()
def _answers(trunk: nn.Module, head: Head, images: Tensor, precision: str) -> Answers:
    """Feature map, embedding and softmax of the logits, in float32."""
    with devices.autocast(images.device, precision):
        fmap, embedding = trunk(images)
        logits: Tensor = head(embedding)
    return fmap.float(), embedding.float(), logits.float().softmax(1)


def _distances(found: Answers, wanted: Answers) -> list[float]:
    """The three means that `TOLERANCE` is about; NaN, which is within nothing, where one is."""
    means = [_relative(one, other) for one, other in zip(found[:2], wanted[:2], strict=True)]
    variation = (found[2] - wanted[2]).abs().sum(1).mean() / 2
    return [float(mean) for mean in (*means, variation)]


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    found, wanted = found.flatten(1), wanted.flatten(1)
    shares: Tensor = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return shares.mean()
