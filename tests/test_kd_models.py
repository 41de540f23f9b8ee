"""Every net on the shelf: shapes, and the parameter counts that the literature states."""

import pytest
import torch

from kd2edge import shelves
from kd2edge.errors import UserError
from kd2edge.kd import net
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd

OWN = [name for name in shelves.names(shelves.MODELS) if name not in ("onnx", "torchvision", "timm")]


def build(classes: int = 100, channels: int = 3, size: int = 32, **spec: object) -> net.Net:
    return net.build(NetSpec.model_validate(spec), net.Shape(channels, (size, size), classes))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("neck", ["gap", "gdc"])
def test_every_net_has_one_shape(name: str, neck: str) -> None:
    made = build(classes=7, channels=1, model={"name": name}, neck=neck, embedding=24, head={"name": "cosface"})
    out = made.eval()(torch.zeros(2, 1, 32, 32))
    stride = made.backbone.stride
    assert out.fmap.shape == (2, made.backbone.width, 32 // stride, 32 // stride)  # type: ignore[operator]
    assert (out.embedding.shape, out.logits.shape) == ((2, 24), (2, 7))


@pytest.mark.parametrize(
    ("arch", "parameters", "width"),
    [
        ("20", 278_324, 64),
        ("32", 472_756, 64),
        ("56", 861_620, 64),
        ("110", 1_736_564, 64),
        ("8x4", 1_233_540, 256),
        ("32x4", 7_433_860, 256),
    ],
)
def test_cifar_resnets_are_those_of_the_distillation_literature(arch: str, parameters: int, width: int) -> None:
    made = build(model={"name": "resnet_cifar", "arch": arch})
    assert (count(made), made.head.weight.shape[1]) == (parameters, width)


@pytest.mark.parametrize(("arch", "parameters"), [("20", 269_722), ("56", 853_018)])
def test_option_a_shortcuts_have_no_parameters(arch: str, parameters: int) -> None:
    assert count(build(classes=10, model={"name": "resnet_cifar", "arch": arch, "shortcut": "option_a"})) == parameters


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_resnets_count_as_published(depth: int, parameters: int) -> None:
    assert count(build(classes=1000, size=64, model={"name": "resnet", "depth": depth})) == parameters


def test_mobilefacenet_is_the_papers_one_million() -> None:
    made = build(size=112, model={"name": "mobilefacenet"}, neck="gdc", embedding=128, head={"name": "arcface"})
    assert count(made.backbone) + count(made.neck) == pytest.approx(0.99e6, rel=0.02)
    assert made.eval()(torch.zeros(1, 3, 112, 112)).fmap.shape == (1, 512, 7, 7)


def test_mobilefacenet_scales_and_changes_its_activation() -> None:
    slim = build(model={"name": "mobilefacenet", "multiplier": 0.5, "activation": "relu"})
    assert count(slim) < 0.4e6
    assert not any(isinstance(m, torch.nn.PReLU) for m in slim.modules())


def test_mobilenet_v2_counts_as_published_and_keeps_more_pixels_of_small_images() -> None:
    assert count(build(classes=1000, size=224, model={"name": "mobilenet_v2"})) == 3_504_872
    small = build(classes=10, model={"name": "mobilenet_v2", "stride": 8, "multiplier": 0.35, "activation": "relu"})
    assert small.eval()(torch.zeros(1, 3, 32, 32)).fmap.shape == (1, 1280, 4, 4)
    assert not any(isinstance(m, torch.nn.ReLU6) for m in small.modules())


def test_a_size_the_net_cannot_halve_is_refused() -> None:
    with pytest.raises(UserError, match="divisible by 16"):
        build(size=40, model={"name": "mobilefacenet"})


def test_an_unknown_net_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'mobilefacenet'"):
        build(model={"name": "mobilfacenet"})
