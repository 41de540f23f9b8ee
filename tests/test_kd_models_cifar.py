"""The nets of the CIFAR-100 pairs: as large and as wide as published, and they cross to ONNX, fold and quantize."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from kd2edge.errors import UserError
from kd2edge.graph.load import load_model
from kd2edge.graph.quantize import quantize_model
from kd2edge.graph.run import run, session
from kd2edge.kd import net, to_onnx
from kd2edge.kd.models._channel_shuffle import shuffled
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd

MOBILE = {"name": "mobilenet_v2", "form": "distillation", "multiplier": 0.5, "stride": 16, "activation": "relu"}
PUBLISHED: dict[str, tuple[dict[str, Any], int, int, tuple[int, int]]] = {  # model, parameters, width, map's C and side
    "wrn16-2": ({"name": "wrn_cifar", "arch": "16-2"}, 703_284, 128, (128, 8)),
    "wrn40-1": ({"name": "wrn_cifar", "arch": "40-1"}, 569_780, 64, (64, 8)),
    "wrn40-2": ({"name": "wrn_cifar", "arch": "40-2"}, 2_255_156, 128, (128, 8)),
    "vgg8": ({"name": "vgg_cifar", "depth": 8}, 3_965_028, 512, (512, 4)),
    "vgg13": ({"name": "vgg_cifar", "depth": 13}, 9_462_180, 512, (512, 4)),
    "MobileNetV2, half": (MOBILE, 812_836, 1280, (1280, 2)),
    "ShuffleV1": ({"name": "shufflenet_v1_cifar"}, 949_258, 960, (960, 4)),
    "ShuffleV2": ({"name": "shufflenet_v2_cifar"}, 1_355_528, 1024, (1024, 4)),
    "ShuffleV2x1.5": ({"name": "shufflenet_v2_cifar", "size": 1.5}, 2_580_548, 1024, (1024, 4)),
    "CIFAR-ResNet50": ({"name": "resnet", "depth": 50, "stem": "small"}, 23_705_252, 2048, (2048, 4)),
}
SMALL: dict[str, dict[str, Any]] = {
    "wrn_cifar": {"arch": "10-1"},
    "vgg_cifar": {"multiplier": 0.125},
    "shufflenet_v1_cifar": {},
    "shufflenet_v2_cifar": {"size": 0.5},
}


def build(model: dict[str, Any], classes: int = 100, size: int = 32) -> net.Net:
    return net.build(NetSpec.model_validate({"model": model}), net.Shape(3, (size, size), classes)).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_widths_are_those_of_the_distillation_literature(name: str) -> None:
    model, parameters, width, fmap = PUBLISHED[name]
    with torch.device("meta"):
        made = build(model)
        out = made(torch.zeros(2, 3, 32, 32))
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert out.embedding.shape == (2, width)
    assert out.fmap.shape == (2, fmap[0], fmap[1], fmap[1])


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("name", SMALL)
def test_it_crosses_to_onnx_folds_and_keeps_its_answers_in_int8(
    name: str, images: npt.NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the shuffled nets two units a stage, which has every kind of layer and takes a fraction of the time."""
    if name.startswith("shufflenet"):
        monkeypatch.setattr(f"kd2edge.kd.models.{name}.REPEATS", (2, 2, 2) if "v1" in name else (1, 1, 1))
    torch.manual_seed(0)
    made = build({"name": name, **SMALL[name]}, classes=10).train()
    with torch.no_grad():
        made(torch.from_numpy(images))  # statistics that a fold must take along
    reference, parity = to_onnx.export(made.eval(), "logits", images, tmp_path / "net.onnx")
    assert parity.cosine_min > 0.99999
    model = load_model(tmp_path / "net.onnx")
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert norms == (4 if name == "wrn_cifar" else 0), "none but those of what is added elsewhere too"
    found = run(session(quantize_model(model, np.split(images, 2), "ort-x86", "minmax").model), images, ["logits"])[0]
    products = (found * reference).sum(1)
    assert (products / np.linalg.norm(found, axis=1) / np.linalg.norm(reference, axis=1)).min() > 0.98


def test_a_shuffle_sends_each_groups_channels_to_all_groups() -> None:
    """Six channels in three groups of two: of each group its first, then of each its second (1707.01083, figure 1)."""
    x = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 1)
    assert shuffled(x, 3)[1, :, 2, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_a_wide_resnet_adds_its_input_as_it_is_where_widths_agree() -> None:
    torch.manual_seed(0)
    made = build({"name": "wrn_cifar", "arch": "16-1"})
    first, second = made.backbone.get_submodule("block2.0"), made.backbone.get_submodule("block2.1")
    x, wide = torch.randn(1, 16, 8, 8), torch.randn(1, 32, 4, 4)
    for block in (first, second):
        torch.nn.init.zeros_(block.get_submodule("conv2").weight)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(second(wide), wide)
        active = first.get_submodule("bn1")(x).relu()
        assert torch.equal(first(x), first.get_submodule("shortcut")(active))


@pytest.mark.parametrize(
    ("model", "size", "fmap"),
    [
        ({"name": "vgg_cifar", "stride": 16, "multiplier": 0.125}, 64, (64, 4)),
        ({"name": "mobilenet_v2", "stride": 16, "multiplier": 0.25}, 64, (1280, 4)),
        ({"name": "shufflenet_v1_cifar", "groups": 2}, 32, (800, 4)),
    ],
)
def test_options_change_what_they_say(model: dict[str, Any], size: int, fmap: tuple[int, int]) -> None:
    out = build(model, classes=3, size=size)(torch.zeros(1, 3, size, size))
    assert out.fmap.shape == (1, fmap[0], fmap[1], fmap[1])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "wrn_cifar", "arch": "28x10"}, "depth 6n . 4"),
        ({"name": "wrn_cifar", "arch": "20-2"}, "depth 6n . 4"),
        ({"name": "shufflenet_v2_cifar", "size": 3}, "size is one of 0.5, 1, 1.5, 2"),
        ({"name": "mobilenet_v2", "form": "distillation", "multiplier": -1}, "multiplier"),
        ({"name": "mobilenet_v2", "multiplier": float("inf")}, "multiplier"),
        ({"name": "vgg_cifar", "multiplier": float("nan")}, "multiplier"),
    ],
)
def test_a_size_that_nobody_published_is_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(model)


def test_no_multiplier_leaves_a_layer_without_channels() -> None:
    kernels = [layer for layer in build({**MOBILE, "multiplier": 0.01}).modules() if isinstance(layer, nn.Conv2d)]
    assert min(layer.out_channels for layer in kernels) == 1
