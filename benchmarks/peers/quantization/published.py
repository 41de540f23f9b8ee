"""Published nets as torch modules: their state dicts in kd2edge's own models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd2edge.kd import net, weights
from kd2edge.schema import NetSpec


def build(options: Mapping[str, Any]) -> net.Net:
    """The net in evaluation mode, for RGB images: FaceX-Zoo's takes BGR, so its first convolution is turned round."""
    model = {**options["model"], **({"arch": options["arch"]} if "arch" in options else {})}
    spec = {"model": model, "neck": options.get("neck", "gap"), "embedding": options.get("embedding")}
    size = options["size"]
    made = net.build(NetSpec.model_validate(spec), net.Shape(3, (size, size), options["classes"])).eval()
    path = Path(options["weights"])
    if options.get("embedding") is None:
        weights.load_into(made, str(path))
    else:
        weights.load_in_order(nn.ModuleList([made.backbone, made.neck]), str(path), print)
        turn_round(made)
    return made


@torch.no_grad()
def turn_round(made: net.Net) -> None:
    """Exchange the first and last input channel of the first convolution: exact, and cheaper than swapping pixels."""
    first = next(module for module in made.modules() if isinstance(module, nn.Conv2d))
    first.weight.copy_(first.weight.flip(1))
