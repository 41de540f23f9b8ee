"""Optimisers and learning-rate schedules of the recipes."""

import math
from typing import Any

import torch
from torch import nn

from kd2edge.schema import Train


def optimizer(learner: nn.Module, plan: Train) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; weight decay on every trainable parameter, as in the papers' code.

    A module with a true `undecayed` keeps its own parameters out of the decay.
    """
    spared = {id(p) for m in learner.modules() if getattr(m, "undecayed", False) for p in m.parameters(recurse=False)}
    parameters = [p for p in learner.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in spared]}]
    if spared:
        groups.append({"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0})
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay)
    return torch.optim.SGD(
        groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=plan.nesterov
    )


def learning_rate(plan: Train, now: float, epochs: int) -> float:
    """The rate at time `now` (in epochs, fractional): linear warm-up, then steps or a half cosine to zero."""
    if now < plan.warmup:
        return plan.lr * (now + 1e-3) / plan.warmup
    if plan.schedule == "step":
        return float(plan.lr * plan.gamma ** sum(now >= milestone for milestone in plan.milestones))
    if plan.schedule == "cosine":
        return plan.lr * 0.5 * (1 + math.cos(math.pi * (now - plan.warmup) / max(1e-9, epochs - plan.warmup)))
    return plan.lr
