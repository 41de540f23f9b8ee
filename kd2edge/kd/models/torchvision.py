"""Any classifier of torchvision by name: `{name: torchvision, arch: resnet50}`; `pretrained` fetches its weights."""

import sys
from typing import Any

import torch

from kd2edge.errors import MissingExtra, UserError
from kd2edge.kd.foreign import ForeignBackbone
from kd2edge.kd.net import Shape
from kd2edge.shelves import PluginConfig, nearest


class Torchvision(ForeignBackbone):
    """torchvision.models.<arch>, with as many classes as the data set has."""

    class Config(PluginConfig):
        arch: str
        pretrained: bool = False

    def __init__(self, config: Config, shape: Shape) -> None:
        models = _models()
        known = models.list_models(module=models)
        if config.arch not in known:
            raise UserError(f"torchvision has no classifier {config.arch!r}{nearest(config.arch, known)}.")
        if config.pretrained:
            body = models.get_model(config.arch, weights="DEFAULT")
        else:
            body = models.get_model(config.arch, weights=None, num_classes=shape.classes)
        super().__init__(config, shape, body)


def _models() -> Any:
    """torchvision.models; with a CPU build of torch beside the registry's torchvision, its missing operators declared.

    That torchvision's compiled operators want CUDA's libraries; the classifiers use none of them.
    """
    try:
        import torchvision.models
    except ImportError as error:
        raise MissingExtra("torchvision", "train", "A torchvision model") from error
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        import torchvision.models
    return torchvision.models


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    sys.modules[__name__].__dict__["_library"] = library  # the declarations live as long as this object
