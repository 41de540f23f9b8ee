"""Optimisers and learning-rate schedules of the recipes."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kd2edge.kd import rows
from kd2edge.schema import Train


def optimizer(learner: nn.Module, plan: Train) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; weight decay on every trainable parameter, as in the papers' code.

    A module with a true `undecayed` keeps its own parameters out of the decay. Where only some rows of a parameter
    have a gradient, only these are moved (`kd/rows.py`). One kernel moves all others, where torch has one.
    """
    spared = {id(p) for m in learner.modules() if getattr(m, "undecayed", False) for p in m.parameters(recurse=False)}
    parameters = [p for p in learner.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in spared]}]
    if spared:
        groups.append({"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0})
    fused = all(_is_plain(parameter) for parameter in parameters)
    made: torch.optim.Optimizer
    if plan.optimizer == "adamw":
        made = torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay, fused=fused)
    else:
        made = torch.optim.SGD(
            groups,
            lr=plan.lr,
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
            nesterov=plan.nesterov,
            fused=fused,
        )
        for parameter in parameters if plan.momentum else ():
            # else torch's fused kernel goes on from uninitialised memory where its very first step overflows
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    made.register_step_pre_hook(rows.step)
    return made


def _is_plain(parameter: Tensor) -> bool:
    """Whether torch's fused kernels take it, who go through a parameter and what belongs to it as they lie."""
    dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
    return dense and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def load(made: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over an optimiser's state as `state_dict` gave it, laid out like the parameters that it belongs to."""
    made.load_state_dict(state)
    for parameter, kept in made.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter).copy_(value)


def learning_rate(plan: Train, now: float, epochs: int) -> float:
    """The rate at time `now` (in epochs, fractional): linear warm-up, then steps, or down to zero.

    Down by a half cosine, or by (1 - t)², t from 0 to 1: the polynomial that arcface_torch trains by.
    """
    if now < plan.warmup:
        return plan.lr * (now + 1e-3) / plan.warmup
    if plan.schedule == "step":
        return float(plan.lr * plan.gamma ** sum(now >= milestone for milestone in plan.milestones))
    passed = (now - plan.warmup) / max(1e-9, epochs - plan.warmup)
    if plan.schedule == "cosine":
        return plan.lr * 0.5 * (1 + math.cos(math.pi * passed))
    if plan.schedule == "polynomial":
        return plan.lr * (1 - passed) ** 2
    return plan.lr
