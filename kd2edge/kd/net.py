"""One shape for every net: backbone → neck → head, and what each of the three hands on.

SimKD reads the last feature map, TH-KD the embedding, KD the logits.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kd2edge import schema, shelves
from kd2edge.errors import UserError
from kd2edge.kd import heads

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Out:
    """What a net hands on: `fmap` [N, C, H, W], `embedding` [N, d], `logits` [N, classes] (without margin)."""

    fmap: Tensor
    embedding: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Shape:
    """What a net is built for: input channels and size (height, width) in pixels, and the number of classes."""

    channels: int
    size: tuple[int, int]
    classes: int


class Backbone(nn.Module):
    """A plug-in of the models shelf: images [N, C, H, W] → last feature map [N, `width`, H / `stride`, W / `stride`].

    A backbone that pools by its own means returns the pair (feature map, pooled [N, `width`]) and sets `pools`.
    `classifier` may name a linear layer of its own that becomes the head where it fits, and `classifier_name` what that
    layer is called in the state dict it comes from. `pretrained` says that the weights are trained ones; `build` sets
    `ready` where the head is such a backbone's own classifier, so that the net needs no training to be used.
    """

    class Config(shelves.PluginConfig):
        """Its section of a recipe."""

    width: int
    stride: int
    pools: bool = False
    classifier: nn.Linear | None = None
    classifier_name: str | None = None
    pretrained: bool = False
    ready: bool = False

    def __init__(self, config: shelves.PluginConfig, shape: Shape) -> None:
        super().__init__()
        self.config, self.shape = config, shape

    def extra_repr(self) -> str:
        """All that it was built by, so that two nets print alike only if they compute alike."""
        return f"{type(self).__module__}, {self.config!r}, {self.shape}"


class Neck(nn.Module):
    """Feature map → embedding: global average pooling or a global depthwise convolution, then a linear layer and BN.

    The global depthwise convolution is MobileFaceNet's (arXiv 1804.07573, section 3.2).
    """

    def __init__(self, kind: str, backbone: Backbone, size: tuple[int, int], embedding: int | None) -> None:
        super().__init__()
        width = backbone.width
        self.width = embedding or width
        layers: list[nn.Module] = []
        if backbone.pools:
            layers.append(nn.Identity())
        elif kind == "gdc":
            kernel = (size[0] // backbone.stride, size[1] // backbone.stride)
            layers += [nn.Conv2d(width, width, kernel, groups=width, bias=False), nn.BatchNorm2d(width), nn.Flatten()]
        else:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if embedding is not None:
            layers += [nn.Linear(width, embedding, bias=False), nn.BatchNorm1d(embedding)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.layers(features)
        return result


class Net(nn.Module):
    """Backbone → neck → head."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: heads.Head) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, images: Tensor) -> Out:
        features = self.backbone(images)
        fmap, pooled = features if isinstance(features, tuple) else (features, features)
        embedding = self.neck(pooled)
        return Out(fmap, embedding, self.head(embedding))


class Shipped(nn.Module):
    """The one tensor of a net that ships: `embedding` or `logits`."""

    def __init__(self, net: Net, output: str) -> None:
        super().__init__()
        self.net, self.output = net, output

    def forward(self, images: Tensor) -> Tensor:
        out: Out = self.net(images)
        tensor: Tensor = getattr(out, self.output)
        return tensor


def build(spec: schema.NetSpec, shape: Shape) -> Net:
    """A net from its section of a recipe, weights as initialised by torch's global seed.

    Raises `UserError` for an unknown model, an invalid option, or an input size the backbone cannot take.
    """
    plugin = shelves.load(shelves.MODELS, spec.model.name, Backbone)  # type: ignore[type-abstract, unused-ignore]
    config = shelves.configure(plugin.Config, spec.model.options, f"model {spec.model.name}")
    backbone = plugin(config, shape)
    if any(edge % backbone.stride for edge in shape.size) and not backbone.pools:
        raise UserError(
            f"{spec.model.name} needs an input size divisible by {backbone.stride}, got {shape.size}.",
            "set data.size",
        )
    neck = Neck(spec.neck, backbone, shape.size, spec.embedding)
    head = heads.build(spec.head, neck.width, shape.classes)
    own = backbone.classifier if spec.embedding is None else None
    if isinstance(head, heads.Linear) and own is not None and own.out_features == shape.classes:
        head.adopt(own)
        backbone.ready = backbone.pretrained
    return Net(backbone, neck, head)


def adapter(given: int, wanted: int) -> nn.Module:
    """One net's embedding [N, `given`] → another's width: nothing where they are equal, else a linear layer."""
    return nn.Identity() if given == wanted else nn.Linear(given, wanted)


def behind(neck: nn.Module, bridge: nn.Module) -> nn.Module:
    """A neck with an adapter behind it, or as it is where there is nothing to adapt."""
    return neck if isinstance(bridge, nn.Identity) else nn.Sequential(neck, bridge)


def freeze(module: M) -> M:
    """Turn a module into a constant: evaluation mode, no gradients."""
    module.eval().requires_grad_(False)
    return module


@torch.no_grad()
def fmap_shape(net: Net, shape: Shape) -> tuple[int, int, int]:
    """(C, H, W) of a net's last feature map, by running it once on zeros."""
    training = net.training
    out: Out = net.eval()(torch.zeros(1, shape.channels, *shape.size))
    net.train(training)
    return (out.fmap.shape[1], out.fmap.shape[2], out.fmap.shape[3])
