"""Training some rows of a matrix: their gradient alone is kept, and the optimiser's step moves nothing else.

For classifiers of hundreds of thousands of classes, of which a step sees a share: Partial FC, arXiv 2203.15565. Rows
that are not seen keep weights, momentum and moments as they are, and see no weight decay.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AT_ONCE = 1024  # rows of one block of an update, so that what it needs besides stays small


class Rows(torch.autograd.Function):
    """`matrix[index]` for [C, d] and an ascending index [k] without repeats; the gradient is sparse, of k rows."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = matrix.shape
        return matrix.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(index[None], gradient, ctx.shape, check_invariants=False), None


def rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Some rows of [C, d], as `Rows` has them."""
    found: Tensor = Rows.apply(matrix, index)  # type: ignore[no-untyped-call]
    return found


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """A hook before the step of SGD or AdamW: make it here for each gradient of some rows, and drop the gradient.

    SGD's arithmetic is that of torch's kernels but for a last bit's rounding. AdamW corrects its moments by the number
    of steps in which a row was seen. Where a scaler has found that gradients overflow, nothing moves, as there.
    """
    move = _adamw if isinstance(optimizer, torch.optim.AdamW) else _sgd
    overflow = getattr(optimizer, "found_inf", None)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None or not parameter.grad.is_sparse:
                continue
            if overflow is not None and bool(overflow):
                parameter.grad = None
                continue
            places, gradient = _parts(_once(parameter.grad))
            for start in range(0, len(places), AT_ONCE):
                block = slice(start, start + AT_ONCE)
                move(parameter, places[block], gradient[block], optimizer.state[parameter], group)
            parameter.grad = None


def _sgd(matrix: Tensor, index: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    own = matrix[index]
    if group["weight_decay"]:
        gradient = gradient.add(own, alpha=group["weight_decay"])
    if group["momentum"]:
        momentum = _kept(state, "momentum_buffer", matrix)
        moved = momentum[index].mul_(group["momentum"]).add_(gradient)
        momentum.index_copy_(0, index, moved)
        gradient = gradient.add(moved, alpha=group["momentum"]) if group["nesterov"] else moved
    matrix.index_copy_(0, index, own.add_(gradient, alpha=-group["lr"]))


def _adamw(matrix: Tensor, index: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    own, (first, second) = matrix[index].mul_(1 - group["lr"] * group["weight_decay"]), group["betas"]
    steps, means, squares = (_kept(state, name, matrix) for name in ("row_steps", "exp_avg", "exp_avg_sq"))
    state.setdefault("step", torch.zeros(()))  # torch wants one on loading; where it lies, torch never moves it
    count = steps[index].add_(1)
    mean = means[index].lerp_(gradient, 1 - first)
    square = squares[index].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    for kept, now in ((steps, count), (means, mean), (squares, square)):
        kept.index_copy_(0, index, now)
    means_lack, squares_lack = ((1 - beta ** count.double()).float() for beta in (first, second))
    root = square.div_(squares_lack).sqrt_().add_(group["eps"])
    matrix.index_copy_(0, index, own.sub_(mean.mul_(group["lr"]).div_(means_lack).div_(root)))


def _kept(state: dict[str, Any], name: str, matrix: Tensor) -> Tensor:
    """What an optimiser keeps for each row, as zeros before the first step; of `row_steps`, one number a row."""
    if name not in state:
        state[name] = torch.zeros_like(matrix[:, :1] if name == "row_steps" else matrix)
    kept: Tensor = state[name]
    return kept


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their norm together is at most `most`; a gradient of some rows counts as these."""
    found = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(gradient.is_sparse for gradient in _gradients(found)):
        nn.utils.clip_grad_norm_(found, most)
        return
    given = numbers(found)
    norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in given]).norm()
    for gradient in given:
        gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0))


def numbers(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """What gradients hold, to be changed in place: one of some rows no more than these [k, d], each row once."""
    found = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter in found:
        parameter.grad = None if parameter.grad is None else _once(parameter.grad)
    return [_parts(gradient)[1] if gradient.is_sparse else gradient for gradient in _gradients(found)]


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _once(gradient: Tensor) -> Tensor:
    """A gradient in which no row is told twice, as where a matrix was used twice; most are so, and are not copied."""
    twice = gradient.is_sparse and not bool((_parts(gradient)[0].diff() > 0).all())
    return gradient.coalesce() if twice else gradient


def _parts(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows' index [k] and numbers [k, d] of a sparse gradient, as they lie."""
    return gradient._indices()[0], gradient._values()  # type: ignore[no-untyped-call, unused-ignore]
