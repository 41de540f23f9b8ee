"""The classifier of anybody's net: found by type or by path, with or without a bias, and refused where it is none."""

import pytest
import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import foreign, heads, net
from kd2edge.shelves import PluginConfig

pytestmark = pytest.mark.kd


def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Forked(nn.Module):
    """Its classifier is a convolution; its last linear layer only weighs channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        logits: Tensor = self.last(x * self.gate(x.mean((2, 3)))[:, :, None, None]).mean((2, 3))
        return logits


def own(body: nn.Module, classifier: str | None = None) -> foreign.ForeignBackbone:
    return foreign.ForeignBackbone(PluginConfig(), net.Shape(3, (8, 8), 5), body, classifier=classifier)


def assert_nothing_is_lost(body: nn.Module, classifier: str | None = None) -> foreign.ForeignBackbone:
    """The classifier on what fed it gives what the net gave before it was taken apart."""
    with torch.no_grad():
        before = body.eval()(images())
        made = own(body, classifier)
        assert made.classifier is not None
        fmap, pooled = made(images())
        torch.testing.assert_close(made.classifier(pooled), before)
    assert (fmap.ndim, pooled.shape) == (4, (3, made.width))
    return made


def pooled_by(*classifier: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)


def test_a_convolution_of_one_pixel_is_a_classifier_when_it_is_named() -> None:
    torch.manual_seed(0)
    made = assert_nothing_is_lost(Forked(), "last")
    assert (made.classifier_name, made.width) == ("last", 8)


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_found_by_itself_where_there_is_no_linear_layer(bias: bool) -> None:
    torch.manual_seed(0)
    trunk, last = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 5, 1, bias=bias)
    made = assert_nothing_is_lost(nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), last, nn.Flatten()))
    assert made.classifier is not None
    assert (made.classifier_name, made.classifier.bias is not None) == ("2", bias)


def test_a_classifier_without_a_bias_becomes_a_head_without_one() -> None:
    body = pooled_by(nn.Linear(8, 5, bias=False))
    made = assert_nothing_is_lost(body)
    head = heads.Linear(8, 5)
    assert made.classifier is not None
    head.adopt(made.classifier)
    assert head.bias is None
    assert list(head.state_dict()) == ["weight"]
    torch.testing.assert_close(head(torch.ones(2, 8)), head.weight.sum(1).expand(2, 5))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("5", r"'5' is no module of this net(.|\n)*linear layers: 4"),
        ("head.fcc", r"is no module of this net"),
        ("0", "'0' is a Conv2d, no linear layer"),
        ("3", "'3' is a Flatten, no linear layer"),
    ],
)
def test_a_path_that_leads_to_no_linear_layer_names_those_there_are(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        own(pooled_by(nn.Linear(8, 5)), path)


@pytest.mark.parametrize("path", ["0", "1"])
def test_a_linear_layer_that_is_not_the_last_is_told_by_its_name(path: str) -> None:
    torch.manual_seed(0)
    pool = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), *pool, nn.Linear(8, 5))
    with pytest.raises(UserError, match=f"'{path}' of this net is not its classifier"):
        own(body, path)


class TwoHeads(nn.Module):
    """As a distilled DeiT: its logits are the mean of two classifiers'. It has as many classes as its embedding has."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.head_dist = pooled_by(), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        z = self.trunk(x)
        logits: Tensor = (self.head(z) + self.head_dist(z)) / 2
        return logits


class ReluBehind(nn.Module):
    """As SqueezeNet: a ReLU stands between the 1x1 convolution that classifies and the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classifier = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.stem(x)).mean((2, 3))
        return logits


@pytest.mark.parametrize("body", [TwoHeads, ReluBehind])
def test_a_classifier_that_does_not_stand_alone_is_refused(body: type[nn.Module]) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"not its classifier(.|\n)*model\.classifier"):
        own(body())


@pytest.mark.parametrize(
    ("body", "size", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8, "no linear classifier"),
        (Forked(), 8, "not its classifier"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 8, "no feature map"),
        (nn.Sequential(nn.Conv2d(3, 5, 9), nn.Flatten(), nn.Linear(5, 5)), 8, "does not take 3×8×8 images"),
    ],
)
def test_a_net_that_cannot_be_wrapped_says_why(body: nn.Module, size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        foreign.ForeignBackbone(PluginConfig(), net.Shape(3, (size, size), 5), body)
