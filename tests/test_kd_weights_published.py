"""Checkpoints of the distillation suites teach here as they are: each net under their names gives their own logits."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import net, weights
from kd2edge.schema import NetSpec
from tests import published_nets

pytestmark = pytest.mark.kd

CLASSES = 7
MOBILE = {"name": "mobilenet_v2", "form": "distillation", "multiplier": 0.5, "stride": 16, "activation": "relu"}
NETS: dict[str, tuple[Callable[[int], nn.Module], dict[str, Any]]] = {
    "resnet8x4": (published_nets.resnet_8x4, {"name": "resnet_cifar", "arch": "8x4"}),
    "ResNet50": (published_nets.resnet_50, {"name": "resnet", "depth": 50, "stem": "small"}),
    "wrn_16_2": (published_nets.wrn_16_2, {"name": "wrn_cifar", "arch": "16-2"}),
    "vgg8": (published_nets.vgg_8, {"name": "vgg_cifar", "depth": 8}),
    "MobileNetV2": (published_nets.mobile_half, MOBILE),
    "ShuffleV1": (published_nets.shuffle_v1, {"name": "shufflenet_v1_cifar"}),
    "ShuffleV2": (published_nets.shuffle_v2, {"name": "shufflenet_v2_cifar"}),
}


def theirs(name: str) -> nn.Module:
    """A net of theirs whose batch norms have gains and statistics of their own, so that none can be mistaken."""
    torch.manual_seed(0)
    made = NETS[name][0](CLASSES)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
    return made.eval()


def ours(name: str) -> net.Net:
    torch.manual_seed(1)
    return net.build(NetSpec.model_validate({"model": NETS[name][1]}), net.Shape(3, (32, 32), CLASSES)).eval()


def require_same(name: str, one: nn.Module, other: net.Net) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted, found = one(images), other(images).logits
    assert float(wanted.std()) > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()), msg=name)


@pytest.mark.parametrize("name", NETS)
def test_a_published_checkpoint_loads_by_name_and_gives_its_own_logits(name: str, tmp_path: Path) -> None:
    source, copy = theirs(name), ours(name)
    best = torch.tensor(72.5)
    torch.save({"epoch": 240, "model": source.state_dict(), "best_acc": best}, tmp_path / "ckpt_epoch_240.pth")
    weights.load_into(copy, str(tmp_path / "ckpt_epoch_240.pth"))
    require_same(name, source, copy)


@pytest.mark.parametrize("name", NETS)
def test_under_any_other_names_it_is_matched_in_order_aloud(name: str, tmp_path: Path) -> None:
    source, copy = theirs(name), ours(name)
    state: dict[str, Tensor] = {}
    for number, (key, value) in enumerate(source.state_dict().items()):
        state[f"module.part{number}.{key.rpartition('.')[2]}"] = value
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    said: list[str] = []
    weights.load_into(copy, str(tmp_path / "w.pt"), said.append)
    require_same(name, source, copy)
    assert len(said) == 1


OWN = """
from torch import nn
from kd2edge.kd.net import Backbone
from kd2edge.shelves import PluginConfig

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 8, 1))

    def forward(self, x):
        return self.conv1(x) + self.shortcut(x)

class Own(Backbone):
    Config, stride, width = PluginConfig, 1, 8

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.layer1 = nn.Sequential(Block())

    def forward(self, images):
        return self.layer1(images)
"""


def test_a_net_of_ones_own_with_such_names_loads_by_them(tmp_path: Path) -> None:
    """`layer1.0.shortcut` is what most ResNets for CIFAR say; it is translated only for nets that do not."""
    (tmp_path / "own.py").write_text(OWN)
    spec = NetSpec.model_validate({"model": {"name": str(tmp_path / "own.py")}})
    source, copy = (net.build(spec, net.Shape(3, (32, 32), CLASSES)).eval() for _ in range(2))
    state = {key.removeprefix("backbone."): value for key, value in source.state_dict().items()}
    assert "layer1.0.shortcut.0.weight" in state
    torch.save(state, tmp_path / "own.pt")
    weights.load_into(copy, str(tmp_path / "own.pt"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(source(images).logits, copy(images).logits)


def test_the_options_of_a_training_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    """`resnet8x4_last.pth` of RepDistiller holds its command line as a Namespace."""
    source, copy = theirs("resnet8x4"), ours("resnet8x4")
    torch.save(
        {"opt": Namespace(learning_rate=0.05, lr_decay_epochs=[150]), "model": source.state_dict()}, tmp_path / "w"
    )
    weights.load_into(copy, str(tmp_path / "w"))
    require_same("resnet8x4", source, copy)


def test_a_path_among_the_options_is_no_plain_value_and_is_refused(tmp_path: Path) -> None:
    torch.save({"opt": Namespace(folder=Path("x")), "model": theirs("resnet8x4").state_dict()}, tmp_path / "w")
    with pytest.raises(UserError, match="not loadable as plain tensors"):
        weights.load_into(ours("resnet8x4"), str(tmp_path / "w"))


@pytest.mark.parametrize(("name", "other"), [("wrn_16_2", "40-2"), ("MobileNetV2", None)])
def test_a_checkpoint_of_another_size_is_refused_by_a_tensor_of_ours(
    name: str, other: str | None, tmp_path: Path
) -> None:
    torch.save({"model": theirs(name).state_dict()}, tmp_path / "w.pth")
    model = {**NETS[name][1], "arch": other} if other else {**MOBILE, "multiplier": 1.0}
    made = net.build(NetSpec.model_validate({"model": model}), net.Shape(3, (32, 32), CLASSES))
    with pytest.raises(UserError, match=r"backbone\.(block1\.2|layers\.0)"):
        weights.load_into(made, str(tmp_path / "w.pth"), lambda _: None)
