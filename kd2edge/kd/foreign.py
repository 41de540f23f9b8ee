"""Any classifier of another library as a backbone: its linear classifier becomes the head, the rest stays as it is."""

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn

from kd2edge.errors import MissingExtra, UserError, first_line
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig, nearest

_DECLARED: list[torch.library.Library] = []  # declarations live as long as their library object


class ForeignBackbone(Backbone):
    """Wraps a classifier. The linear layer that ends it is taken out, what fed it is the pooled embedding [N, d].

    That layer is the module at the path `classifier`, else the last linear one; it may lack a bias, and a 1x1
    convolution is a linear layer of each pixel. The feature map is the last 4-D output with more than one pixel, found
    by running the net. Raises `UserError` when it does not take such images, when there is no such layer or its logits
    are no linear map of what feeds it, and when it has no such feature map.
    """

    pools = True
    stride = 1

    def __init__(
        self,
        config: PluginConfig,
        shape: Shape,
        body: nn.Module,
        pretrained: bool = False,
        classifier: str | None = None,
    ) -> None:
        super().__init__(config, shape)
        noise = torch.randn(1, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
        logits = _logits(body, noise)
        self.classifier_name = _find(body, classifier)
        linear = _take_out(body, self.classifier_name)
        self.body, self.width, self.pretrained = body, linear.in_features, pretrained
        self.__dict__["classifier"] = linear  # the head owns its parameters; this is only a reference
        self._fmap: Tensor | None = None
        again, spatial = _again(body, noise, linear)
        if not _equal(again, logits):
            raise UserError(
                f"{self.classifier_name!r} of this net is not its classifier, or not its only one: "
                "the net returns other logits than that layer.",
                "name another layer as model.classifier, or choose another arch",
            )
        if spatial is None:
            raise UserError("This net hands on no feature map at this input size.", "raise data.size")
        spatial.register_forward_hook(self._keep)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled: Tensor = self.body(images)
        if not isinstance(pooled, Tensor):
            raise UserError(
                "This net returns several outputs while it trains.", "choose another arch, or turn them off"
            )
        assert self._fmap is not None
        fmap, self._fmap = self._fmap, None
        return fmap, pooled

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._fmap = output


@torch.no_grad()
def _logits(body: nn.Module, images: Tensor) -> object:
    try:
        return body.eval()(images)
    except (RuntimeError, AssertionError, ValueError) as error:
        _, channels, height, width = images.shape
        raise UserError(
            f"This net does not take {channels}×{height}×{width} images: {first_line(error)}.",
            f"set data.size, or choose an arch that takes {channels} channels",
        ) from error


def _find(body: nn.Module, path: str | None) -> str:
    """The path of the classifier: the one stated, else the last linear layer, else the last 1x1 convolution."""
    modules: dict[str, nn.Module] = dict(body.named_modules())
    known = [name for name, module in modules.items() if _is_pixelwise(module)]
    known += [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if not known:
        raise UserError("This net has no linear classifier to share.", "name a classifier of torchvision or timm")
    if path is None or path in known:
        return path or known[-1]
    what = f"a {type(modules[path]).__name__}, no linear layer" if path in modules else "no module of this net"
    raise UserError(
        f"The classifier {path!r} is {what}{nearest(path, known)}.",
        f"the last of its linear layers: {', '.join(known[-5:])}",
    )


def _is_pixelwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def _take_out(body: nn.Module, path: str) -> nn.Linear:
    """Put the identity in the classifier's place; the classifier, of a 1x1 convolution the linear layer it is."""
    layer = body.get_submodule(path)
    parent, _, last = path.rpartition(".")
    setattr(body.get_submodule(parent), last, nn.Identity())
    if isinstance(layer, nn.Linear):
        return layer
    assert isinstance(layer, nn.Conv2d)
    linear = nn.Linear(layer.in_channels, layer.out_channels, layer.bias is not None)
    linear.load_state_dict(
        {name: value.view_as(linear.state_dict()[name]) for name, value in layer.state_dict().items()}
    )
    return linear


@torch.no_grad()
def _again(body: nn.Module, images: Tensor, classifier: nn.Linear) -> tuple[object, nn.Module | None]:
    """The logits of a body whose classifier was taken out, and the module that makes its last feature map."""
    found: list[nn.Module] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(module)

    hooks = [module.register_forward_hook(look) for module in body.modules()]
    try:
        logits: object = classifier(body(images))
    except (RuntimeError, TypeError):  # a second classifier, whose output does not combine with an embedding
        logits = None
    for hook in hooks:
        hook.remove()
    return logits, found[-1] if found else None


def _equal(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= 1e-3 * other.abs().max())


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
