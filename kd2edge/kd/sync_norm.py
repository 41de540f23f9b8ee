"""Batch norm over all processes: each layer's statistics are those of the whole batch, whichever rank holds an image.

torch's SyncBatchNorm computes on GPUs only. Here ranks gather their means and variances, N numbers being equal on each,
and join them by their differences (Chan et al., 1983), so that nothing is lost where a mean is far from zero.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd2edge.errors import UserError
from kd2edge.kd import sharded
from kd2edge.kd.ranks import Ranks


@contextmanager
def synchronised(learner: nn.Module, wanted: bool, ranks: Ranks) -> Iterator[None]:
    """Let the learner's batch norms take their statistics over all ranks, where that is wanted, until the block ends.

    Modules, parameters and the names of a state dict stay what they are. Raises `UserError` for a batch norm that
    computes in a way of its own.
    """
    found = [module for module in learner.modules() if isinstance(module, _BatchNorm)]
    found = found if wanted and ranks.count > 1 else []
    for module in found:
        if type(module).forward is not _BatchNorm.forward:
            raise UserError(
                f"{type(module).__name__} is a batch norm that computes in its own way, and cannot be synchronised.",
                "set train.sync_batch_norm=false, or choose another model",
            )
    for module in found:
        module.forward = partial(_forward, module, ranks.count)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in found:
            del module.forward


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
def _forward(norm: _BatchNorm, ranks: int, x: Tensor) -> Tensor:
    """A batch norm of [N, C, ...], in float32 and back in the type of `x`; in evaluation it is torch's own."""
    if not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)  # type: ignore[no-untyped-call, unused-ignore]
    across, values = [0, *range(2, x.ndim)], x.float()
    variance, mean = torch.var_mean(values, across, correction=0)
    gathered = sharded.gather(torch.stack([mean, variance])[None])
    means, variances = gathered[:, 0], gathered[:, 1]
    mean = means.mean(0)
    variance = (variances + (means - mean).square()).mean(0)
    _remember(norm, mean.detach(), variance.detach(), ranks * values.numel() // values.shape[1])
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale = torch.rsqrt(variance + norm.eps)
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    return (values * scale.view(shape) + shift.view(shape)).to(x.dtype)


@torch.no_grad()
def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics, of `count` values a channel; the variance kept is the unbiased one, as in torch."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((variance * (count / max(1, count - 1))).to(norm.running_var.dtype), share)
