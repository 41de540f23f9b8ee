"""Batch norms folded into the layers before them, in a copy: what a constant net computes, in fewer passes over memory.

In evaluation y = γ·(W x + b − μ) / σ + β is one linear map. Which norm reads which layer's output, unchanged and alone,
is seen by running the net, so that it does not matter how a net was written.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Layer = nn.Conv2d | nn.Linear


@torch.no_grad()
def folded(net: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """A copy of a net in evaluation mode, and how many of its batch norms were folded.

    `images` [N, C, H, W] are run through it once. Whoever else read what a norm reads would now get something else, so
    the copy is to be compared with the net.
    """
    made = copy.deepcopy(net)
    modules = dict(made.named_modules())
    pairs = _pairs(made, images)
    for before, after in pairs:
        layer, norm = modules[before], modules[after]
        if isinstance(layer, nn.Conv2d):
            _replace(made, before, fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear):
            _replace(made, before, fuse_linear_bn_eval(layer, norm))
        _replace(made, after, _behind(norm))
    return made.requires_grad_(False), len(pairs)


def _pairs(net: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """The names of layers and the norms that read their outputs as they are; each is run once."""
    made: dict[int, tuple[str, Tensor, int]] = {}  # by id of the output, which is held so that no other gets its id
    found: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d | nn.Linear):
                made[id(output)] = name, output, output._version
            elif inputs and id(inputs[0]) in made:
                before, read, version = made[id(inputs[0])]
                if read._version == version and read.ndim in (2, 4):
                    found.append((before, name))

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in net.named_modules() if _folds(module)]
    try:
        net(images)
    finally:
        for hook in hooks:
            hook.remove()
    readers = Counter(before for before, _ in found)
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == readers[pair[0]] == 1]


def _folds(module: nn.Module) -> bool:
    """Whether a module is a layer or a norm of the kind that folds, and nobody listens to it."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return module.running_mean is not None and not module.training
    return isinstance(module, nn.Conv2d | nn.Linear) and not module.training


def _behind(norm: nn.Module) -> nn.Module:
    """What is left of a norm: nothing, or what timm's BatchNormAct2d does besides."""
    rest = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _replace(net: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, by)
