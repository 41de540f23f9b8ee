"""Nets of torchvision and timm: one shape like our own, their libraries' state dicts load, and they cross to ONNX."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd2edge.errors import MissingExtra, UserError
from kd2edge.graph.run import run_onnx
from kd2edge.kd import foreign, net, to_onnx, weights
from kd2edge.kd.net import Backbone
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd

NETS = [("torchvision", "resnet18", 512), ("timm", "mobilenetv3_small_050", 1024)]  # the last is the embedding's width
PRETRAINED = [("torchvision", "mobilenet_v3_small"), ("timm", "mobilenetv3_small_050")]


def library(name: str) -> Any:
    """The library, or a skip; torchvision comes first because timm imports it and it may need mending."""
    try:
        foreign.torchvision_models("A test")
    except MissingExtra:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.models") if name == "torchvision" else pytest.importorskip(name)


def theirs(name: str, arch: str, classes: int) -> nn.Module:
    """The library's own net, by the library's own call, with running statistics unlike those of a fresh one."""
    torch.manual_seed(0)
    make = library(name).get_model if name == "torchvision" else library(name).create_model
    made: nn.Module = make(arch, num_classes=classes)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.fill_(0.5)  # type: ignore[union-attr]
    return made.eval()


def ours(name: str, arch: str, classes: int, size: int = 32, pretrained: bool = False, **spec: Any) -> net.Net:
    model = {"name": name, "arch": arch, "pretrained": pretrained}
    return net.build(NetSpec.model_validate({"model": model, **spec}), net.Shape(3, (size, size), classes)).eval()


def images(size: int = 32) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("name", "arch", "width"), NETS)
def test_it_has_one_shape_and_crosses_to_onnx(name: str, arch: str, width: int, tmp_path: Path) -> None:
    library(name)
    made = ours(name, arch, 5)
    out = made(images())
    assert (out.embedding.shape, out.logits.shape) == ((3, width), (3, 5))
    assert (out.fmap.shape[0], out.fmap.ndim) == (3, 4)
    assert out.fmap.shape[2] > 1
    reference, found = to_onnx.export(made, "logits", images().numpy(), tmp_path / "net.onnx")
    assert found.cosine_min > 0.99999
    one = run_onnx(tmp_path / "net.onnx", images().numpy()[:1])
    np.testing.assert_allclose(one, reference[:1], rtol=1e-3, atol=1e-3 * float(np.abs(reference).max()))


@pytest.mark.parametrize(
    ("name", "arch", "size"),
    [
        ("torchvision", "resnet18", 32),
        ("torchvision", "mobilenet_v3_small", 32),  # classifier.3
        ("torchvision", "convnext_tiny", 32),  # classifier.2
        ("torchvision", "vit_b_32", 224),  # heads.head
        ("timm", "mobilenetv3_small_050", 32),
    ],
)
def test_its_librarys_state_dict_loads_whatever_the_classifier_is_called(
    name: str, arch: str, size: int, tmp_path: Path
) -> None:
    library(name)
    source, copy = theirs(name, arch, 7), ours(name, arch, 7, size)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    weights.load_into(copy, str(tmp_path / "w.pth"))
    with torch.no_grad():
        torch.testing.assert_close(copy(images(size)).logits, source(images(size)))


@pytest.fixture(params=PRETRAINED, ids=lambda pair: pair[0])
def pretrained(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, nn.Module]:
    """A net of 1000 classes whose weights lie where its library would have downloaded them."""
    name, arch = request.param
    source = theirs(name, arch, 1000)
    if name == "torchvision":
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        path = tmp_path / "hub" / "checkpoints" / library(name).get_model_weights(arch).DEFAULT.url.rsplit("/", 1)[1]
        path.parent.mkdir(parents=True)
        torch.save(source.state_dict(), path)
    else:
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: source.state_dict())
    return name, arch, source


def test_a_pretrained_net_is_ready_where_its_classifier_fits(pretrained: tuple[str, str, nn.Module]) -> None:
    name, arch, source = pretrained
    made = ours(name, arch, 1000, pretrained=True)
    assert made.backbone.ready
    with torch.no_grad():
        torch.testing.assert_close(made(images()).logits, source(images()))


def test_torchvisions_weights_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ResNet-50's newest are no teacher of the literature: 80.9 % where the papers have 76.1."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = theirs("torchvision", "resnet50", 1000)
    first = library("torchvision").get_model_weights("resnet50").IMAGENET1K_V1
    path = tmp_path / "hub" / "checkpoints" / first.url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    torch.save(source.state_dict(), path)

    def made(weights: str) -> net.Net:
        model = {"name": "torchvision", "arch": "resnet50", "pretrained": weights}
        return net.build(NetSpec.model_validate({"model": model}), net.Shape(3, (32, 32), 1000)).eval()

    found = made("IMAGENET1K_V1")
    assert found.backbone.ready
    with torch.no_grad():
        torch.testing.assert_close(found(images()).logits, source(images()))
    with pytest.raises(UserError, match=r"no weights 'IMAGENET1K_V3' of resnet50 \(did you mean 'IMAGENET1K_V"):
        made("IMAGENET1K_V3")


@pytest.mark.parametrize(
    ("classes", "spec"), [(5, {}), (1000, {"embedding": 16}), (1000, {"head": {"name": "cosface"}})]
)
def test_a_pretrained_net_gets_a_head_of_the_right_size_and_is_not_ready(
    classes: int, spec: dict[str, Any], pretrained: tuple[str, str, nn.Module]
) -> None:
    name, arch, source = pretrained
    made = ours(name, arch, classes, pretrained=True, **spec)
    assert not made.backbone.ready
    assert made(images()).logits.shape == (3, classes)
    first = next(iter(source.parameters()))
    assert torch.equal(next(iter(made.backbone.parameters())), first), "the body keeps its pretrained weights"


@pytest.mark.parametrize(("name", "arch", "width"), NETS)
def test_a_net_without_pretrained_weights_is_not_ready(name: str, arch: str, width: int) -> None:
    library(name)
    assert not ours(name, arch, 5).backbone.ready


@pytest.mark.parametrize(("name", "module"), [("torchvision", "torchvision.models"), ("timm", "timm")])
def test_a_missing_library_names_the_extra_that_brings_it(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(name)
    monkeypatch.setitem(sys.modules, module, None)  # what the import system takes for "not installed"
    with pytest.raises(MissingExtra, match=r"\[zoo\]"):
        ours(name, "resnet18", 5)


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_an_unknown_arch_is_told(name: str) -> None:
    library(name)
    with pytest.raises(UserError, match="no classifier 'resnet17'"):
        ours(name, "resnet17", 5)


@pytest.mark.parametrize(("name", "arch"), [("torchvision", "resnet18"), ("timm", "resnet18")])
def test_a_recipe_names_the_classifier_of_a_librarys_net(name: str, arch: str) -> None:
    library(name)

    def made(path: str) -> net.Net:
        model = {"name": name, "arch": arch, "classifier": path}
        return net.build(NetSpec.model_validate({"model": model}), net.Shape(3, (32, 32), 2)).eval()

    assert made("fc")(images()).logits.shape == (3, 2)
    with pytest.raises(UserError, match=r"'fcc' is no module of this net \(did you mean 'fc'\?\)"):
        made("fcc")
    with pytest.raises(UserError, match="'layer4' is a Sequential"):
        made("layer4")


@pytest.mark.parametrize(
    ("name", "arch", "path"),
    [
        ("timm", "resnetv2_18", "head.fc"),  # a 1x1 convolution behind the pooling
        ("torchvision", "densenet121", "classifier"),
    ],
)
def test_named_classifiers_load_their_librarys_weights(name: str, arch: str, path: str, tmp_path: Path) -> None:
    source = theirs(name, arch, 7)
    model = {"name": name, "arch": arch, "classifier": path}
    copy = net.build(NetSpec.model_validate({"model": model}), net.Shape(3, (64, 64), 7)).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    weights.load_into(copy, str(tmp_path / "w.pth"))
    with torch.no_grad():
        torch.testing.assert_close(copy(images(64)).logits, source(images(64)))


def test_a_backbone_of_our_own_is_never_ready() -> None:
    assert (Backbone.ready, Backbone.pretrained, Backbone.classifier_name) == (False, False, None)
