"""Any classifier of another library as a backbone: its last linear layer becomes the head, the rest stays as it is."""

import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig


class ForeignBackbone(Backbone):
    """Wraps a classifier. Its last linear layer is taken out, what fed it is the pooled embedding [N, d].

    The feature map is the last 4-D output with more than one pixel, found by running it once.
    Raises `UserError` when there is no linear layer or no such feature map.
    """

    pools = True
    stride = 1

    def __init__(self, config: PluginConfig, shape: Shape, body: nn.Module) -> None:
        super().__init__(config, shape)
        linear = [(name, layer) for name, layer in body.named_modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError("This net has no linear classifier to share.", "name a classifier of torchvision or timm")
        name, self_classifier = linear[-1]
        parent, _, last = name.rpartition(".")
        setattr(body.get_submodule(parent), last, nn.Identity())
        self.body, self.width = body, self_classifier.in_features
        self.__dict__["classifier"] = self_classifier  # the head owns its parameters; this is only a reference
        self._fmap: Tensor | None = None
        _last_spatial(body, shape).register_forward_hook(self._keep)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled: Tensor = self.body(images)
        assert self._fmap is not None
        fmap, self._fmap = self._fmap, None
        return fmap, pooled

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._fmap = output


@torch.no_grad()
def _last_spatial(body: nn.Module, shape: Shape) -> nn.Module:
    found: list[nn.Module] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(module)

    hooks = [module.register_forward_hook(look) for module in body.modules()]
    body.eval()(torch.zeros(1, shape.channels, *shape.size))
    for hook in hooks:
        hook.remove()
    if not found:
        raise UserError("This net hands on no feature map at this input size.", "raise data.size")
    return found[-1]
