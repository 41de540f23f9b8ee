"""Any classifier of another library as a backbone: its last linear layer becomes the head, the rest stays as it is."""

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn

from kd2edge.errors import MissingExtra, UserError, first_line
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

_DECLARED: list[torch.library.Library] = []  # declarations live as long as their library object


class ForeignBackbone(Backbone):
    """Wraps a classifier. Its last linear layer is taken out, what fed it is the pooled embedding [N, d].

    The feature map is the last 4-D output with more than one pixel, found by running it once.
    Raises `UserError` when it does not take such images, when its last linear layer is not its classifier, and when
    it has no such feature map.
    """

    pools = True
    stride = 1

    def __init__(self, config: PluginConfig, shape: Shape, body: nn.Module, pretrained: bool = False) -> None:
        super().__init__(config, shape)
        linear = [(name, layer) for name, layer in body.named_modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError("This net has no linear classifier to share.", "name a classifier of torchvision or timm")
        self.classifier_name, classifier = linear[-1]
        parent, _, last = self.classifier_name.rpartition(".")
        setattr(body.get_submodule(parent), last, nn.Identity())
        self.body, self.width, self.pretrained = body, classifier.in_features, pretrained
        self.__dict__["classifier"] = classifier  # the head owns its parameters; this is only a reference
        self._fmap: Tensor | None = None
        _last_spatial(body, shape, self.width).register_forward_hook(self._keep)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled: Tensor = self.body(images)
        assert self._fmap is not None
        fmap, self._fmap = self._fmap, None
        return fmap, pooled

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._fmap = output


@torch.no_grad()
def _last_spatial(body: nn.Module, shape: Shape, width: int) -> nn.Module:
    found: list[nn.Module] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(module)

    hooks = [module.register_forward_hook(look) for module in body.modules()]
    try:
        pooled = body.eval()(torch.zeros(1, shape.channels, *shape.size))
    except (RuntimeError, AssertionError, ValueError) as error:
        hint = f"set data.size, or choose an arch that takes {shape.channels} channels"
        images = f"{shape.channels}×{shape.size[0]}×{shape.size[1]}"
        raise UserError(f"This net does not take {images} images: {first_line(error)}.", hint) from error
    for hook in hooks:
        hook.remove()
    if not isinstance(pooled, Tensor) or pooled.shape != (1, width):
        raise UserError("This net's last linear layer is not its classifier.", "choose another arch")
    if not found:
        raise UserError("This net hands on no feature map at this input size.", "raise data.size")
    return found[-1]


def torchvision_models(use: str) -> Any:
    """torchvision.models; with a CPU build of torch beside the registry's torchvision, its missing operators declared.

    That torchvision's compiled operators want CUDA's libraries; the classifiers, timm's too, use none of them.
    Raises `UserError`, about what `use` names, when torchvision is missing or does not fit torch.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise MissingExtra("torchvision", "zoo", use) from error
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    try:
        _declare_operators()
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{use} needs torchvision, which does not fit this torch: {first_line(error)}.",
            "install torch and torchvision of one release",
        ) from error


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _DECLARED.append(library)
