"""State dicts under arcface_torch's names become our nets.

No published file of theirs is at hand here: the nets are written anew below, from the description of theirs, with its
names, and what they compute is compared.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import net, weights
from kd2edge.kd.layouts.arcface_torch import ArcFaceTorch
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd

MBF = {"model": {"name": "mobilefacenet", "form": "insightface"}, "neck": "gdc", "embedding": 24}
IRESNET = {"model": {"name": "iresnet", "multiplier": 0.125, "embedding": 24}}


class Nested(nn.Module):
    """Layers under the name `layers`, one after the other, and their input again where that is `residual`."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers, self.residual = nn.Sequential(*layers), residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out + x if self.residual else out


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> Nested:
    padding = kernel // 2 if active else 0
    made = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return Nested(*made, *([nn.PReLU(outputs)] if active else []))


def block(inputs: int, hidden: int, outputs: int, stride: int = 1) -> Nested:
    parts = [conv(inputs, hidden, 1), conv(hidden, hidden, 3, stride, hidden), conv(hidden, outputs, 1, active=False)]
    return Nested(*parts, residual=stride == 1)


class Mbf(nn.Module):
    """insightface's MobileFaceNet of scale 2 and blocks (1, 4, 6, 2), for images of 32 pixels."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                conv(3, 128, 3, 2),
                conv(128, 128, 3, groups=64),
                block(128, 128, 128, 2),
                Nested(*(block(128, 128, 128) for _ in range(4))),
                block(128, 256, 256, 2),
                Nested(*(block(256, 256, 256) for _ in range(6))),
                block(256, 512, 256, 2),
                Nested(*(block(256, 256, 256) for _ in range(2))),
            ]
        )
        self.conv_sep = conv(256, 512, 1)
        ending = [nn.Flatten(), nn.Linear(512, embedding, bias=False), nn.BatchNorm1d(embedding)]
        self.features = Nested(conv(512, 512, 2, groups=512, active=False), *ending)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.features(self.conv_sep(x))
        return out


def iresnet(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """An iResNet-18's embedding, from the tensors that arcface_torch gives these names."""

    def bn(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    x = F.prelu(bn("bn1", F.conv2d(x, state["conv1.weight"], padding=1)), state["prelu.weight"])
    for place in [f"layer{stage}.{number}" for stage in range(1, 5) for number in range(2)]:
        stride = 2 if f"{place}.downsample.0.weight" in state else 1
        out = F.conv2d(bn(f"{place}.bn1", x), state[f"{place}.conv1.weight"], padding=1)
        out = F.prelu(bn(f"{place}.bn2", out), state[f"{place}.prelu.weight"])
        out = bn(f"{place}.bn3", F.conv2d(out, state[f"{place}.conv2.weight"], stride=stride, padding=1))
        if stride == 2:
            x = bn(f"{place}.downsample.1", F.conv2d(x, state[f"{place}.downsample.0.weight"], stride=2))
        x = out + x
    return bn("features", F.linear(bn("bn2", x).flatten(1), state["fc.weight"], state["fc.bias"]))


def lived_in(module: nn.Module) -> nn.Module:
    """With batch norms and slopes that are not those of a fresh net."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.weight, 0.8, 1.2, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
        elif isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, 0, 0.5, generator=generator)
    return module.eval()


def build(section: Mapping[str, object]) -> net.Net:
    spec = NetSpec.model_validate({**section, "head": {"name": "arcface"}})
    return net.build(spec, net.Shape(3, (32, 32), 5)).eval()


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def saved(state: Mapping[str, Tensor], folder: Path) -> str:
    torch.save(dict(state), folder / "backbone.pth")
    return str(folder / "backbone.pth")


@pytest.fixture(scope="module")
def mbf() -> nn.Module:
    torch.manual_seed(0)
    return lived_in(Mbf(24))


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_a_mobilefacenet_of_theirs_computes_the_same_here(mbf: nn.Module, prefix: str, tmp_path: Path) -> None:
    made = build(MBF)
    before = made.head.weight.clone()
    state = {prefix + name: value for name, value in mbf.state_dict().items()}
    weights.load_into(made, saved(state, tmp_path), headless=True)
    torch.testing.assert_close(made(images()).embedding, mbf(images()), rtol=1e-4, atol=1e-4)
    assert torch.equal(made.head.weight, before)


@torch.no_grad()
def test_an_iresnet_of_theirs_computes_the_same_here(tmp_path: Path) -> None:
    source = lived_in(build(IRESNET).backbone)
    state, made = source.state_dict(), build(IRESNET)
    weights.load_into(made, saved(state, tmp_path), headless=True)
    torch.testing.assert_close(made(images()).embedding, iresnet(state, images()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_checkpoint_of_ours_keeps_its_head(tmp_path: Path) -> None:
    source, made = lived_in(build(IRESNET)), build(IRESNET)
    weights.load_into(made, saved(source.state_dict(), tmp_path))
    torch.testing.assert_close(made(images()).logits, source(images()).logits)


def test_a_layout_renames_each_tensor_and_invents_none(mbf: nn.Module) -> None:
    made = build(MBF)
    found = ArcFaceTorch().translated(mbf.state_dict(), made)
    ours = {name for name in made.state_dict() if not name.startswith("head.")}
    assert set(found) == ours
    assert len(found) == len(mbf.state_dict())


def test_a_file_without_a_classifier_says_where_one_can_come_from(mbf: nn.Module, tmp_path: Path) -> None:
    """The linear layer that an iResNet calls `fc` is not taken for one."""
    for section, state in ((MBF, mbf.state_dict()), (IRESNET, build(IRESNET).backbone.state_dict())):
        with pytest.raises(UserError, match="without its classifier") as caught:
            weights.load_into(build(section), saved(state, tmp_path))
        assert "head_from: centres" in str(caught.value)


def test_the_other_form_of_the_net_is_refused(mbf: nn.Module, tmp_path: Path) -> None:
    path = saved(mbf.state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"does not (fit|hold) this net"):
        weights.load_into(build({**MBF, "model": {"name": "mobilefacenet"}}), path, headless=True)


def test_nets_of_others_are_not_taken_for_theirs() -> None:
    for section in ({"model": {"name": "resnet"}}, {"model": {"name": "mobilefacenet"}}, IRESNET):
        assert not ArcFaceTorch().fits(build(section).state_dict())
    assert not ArcFaceTorch().fits(build({"model": {"name": "resnet"}}).backbone.state_dict())
