"""A quick teacher answers as the plain one within its tolerance, on every net of the shelf, and is gone afterwards."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kd2edge import shelves
from kd2edge.kd import heads, net, quick_teacher, to_onnx
from kd2edge.kd.fold import folded
from kd2edge.kd.quick_teacher import TOLERANCE, quickened
from kd2edge.schema import NetSpec
from tests import lessons
from tests.test_kd_foreign import library

pytestmark = pytest.mark.kd
OWN = [name for name in shelves.names(shelves.MODELS) if name not in ("onnx", "torchvision", "timm")]
NORMS = nn.BatchNorm1d | nn.BatchNorm2d
SHAPE = net.Shape(3, (32, 32), 5)


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def worn_in(made: net.Net) -> net.Net:
    """A frozen net whose norms are not those of a fresh one: no statistic, gain or shift is a neutral one."""
    generator = torch.Generator().manual_seed(1)
    for layer in made.modules():
        if isinstance(layer, NORMS):
            for tensor, low in (
                (layer.running_var, 0.5),
                (layer.weight, 0.7),
                (layer.running_mean, -0.2),
                (layer.bias, -0.2),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, low + 0.4, generator=generator)
    return net.freeze(made)


def build(name: str, embedding: int | None = None, **options: object) -> net.Net:
    torch.manual_seed(0)
    spec = {"model": {"name": name, **options}, "embedding": embedding}
    return worn_in(net.build(NetSpec.model_validate(spec), SHAPE))


def answers(made: net.Net, precision: torch.dtype = torch.float32) -> net.Out:
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        out: net.Out = made(images())
    return out


def norms(*modules: nn.Module) -> int:
    return sum(isinstance(inner, NORMS) for module in modules for inner in module.modules())


def off(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.float().flatten(1), wanted.flatten(1)
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).mean())


def test_the_shelf_is_not_empty() -> None:
    assert {"resnet_cifar", "mobilefacenet", "mobilenet_v2", "iresnet", "resnet"} <= set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_every_net_answers_the_same_and_is_as_it_was(name: str) -> None:
    teacher = build(name)
    before, backbone, neck = answers(teacher), teacher.backbone, teacher.neck
    state = {key: value.clone() for key, value in teacher.state_dict().items()}
    with quickened([teacher], nn.Linear(1, 1), images(), "fp32") as told:
        found = answers(teacher)
        left = norms(teacher)
        assert told is not None
        assert f"teacher {norms(backbone, neck) - left} batch norms folded" in told
    for part in ("fmap", "embedding", "logits"):
        assert off(getattr(found, part), getattr(before, part)) < 1e-5
    assert (teacher.backbone, teacher.neck) == (backbone, neck)
    assert list(teacher.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())
    assert torch.equal(answers(teacher).logits, before.logits)


@pytest.mark.parametrize(
    ("name", "options", "embedding", "left"),
    [
        ("resnet_cifar", {"arch": "20"}, None, 0),
        ("resnet_cifar", {"arch": "20", "shortcut": "option_a"}, 16, 0),  # with the neck's
        ("mobilefacenet", {"multiplier": 0.25}, 16, 0),
        ("mobilenet_v2", {"multiplier": 0.25}, None, 0),
        ("iresnet", {"multiplier": 0.1}, None, 9),  # each of eight blocks begins with one, and one follows the last sum
    ],
)
def test_all_norms_are_folded_that_follow_a_layer(
    name: str, options: dict[str, object], embedding: int | None, left: int
) -> None:
    teacher = build(name, embedding, **options)
    with quickened([teacher], nn.Linear(1, 1), images(), "fp32"):
        assert norms(teacher) == left


@pytest.mark.parametrize(
    ("name", "arch", "listened"),
    [("torchvision", "resnet18", 0), ("timm", "mobilenetv3_small_050", 1), ("timm", "tf_efficientnet_b0", 1)],
)
def test_other_libraries_nets_too(name: str, arch: str, listened: int) -> None:
    library(name)
    teacher = build(name, arch=arch)
    before = answers(teacher)
    with quickened([teacher], nn.Linear(1, 1), images(), "fp32"):
        found, left = answers(teacher), norms(teacher)
    assert left == listened  # the one whose output is handed on as the feature map
    for part in ("fmap", "embedding", "logits"):
        assert off(getattr(found, part), getattr(before, part)) < 1e-5
    assert torch.equal(answers(teacher).fmap, before.fmap)


def test_a_teacher_read_from_onnx_is_left(tmp_path: Path) -> None:
    own = build("resnet_cifar", arch="8")
    to_onnx.export(own, "logits", images().numpy(), tmp_path / "teacher.onnx")
    teacher = build("onnx", path=str(tmp_path / "teacher.onnx"))
    backbone = teacher.backbone
    with quickened([teacher], nn.Linear(1, 1), images(), "fp32") as told:
        assert teacher.backbone is backbone
    assert told is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_taken_within_the_tolerance(precision: str) -> None:
    teacher = build("resnet_cifar", arch="20")
    before, kind = answers(teacher), {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with quickened([teacher], nn.Linear(1, 1), images(), precision) as told:
        found = answers(teacher, kind)
    assert f", in {precision}, " in str(told)
    assert found.embedding.dtype in (kind, torch.float32)
    assert 1e-5 < off(found.embedding, before.embedding) < TOLERANCE[0]


class Cancelling(nn.Module):
    """A map that is the small difference of large ones: bf16 has too few digits for it, and fp16 no such numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        large = self.conv(x) + 1e5
        out: Tensor = self.conv(x.flip(3)) + large - 1e5
        return out


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_beyond_the_tolerance_the_teacher_stays_in_fp32(precision: str) -> None:
    torch.manual_seed(0)
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = net.freeze(net.Net(Cancelling(), neck, heads.Linear(4, 5)))
    before, kind = answers(teacher), {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert not off(answers(teacher, kind).fmap, before.fmap) < TOLERANCE[0]
    with quickened([teacher], nn.Linear(1, 1), images(), precision) as told:
        found = answers(teacher, kind)
    assert f"in fp32, {precision} being" in str(told)
    assert torch.equal(found.fmap, before.fmap)
    assert torch.equal(found.embedding, before.embedding)


def test_nets_that_learn_or_are_part_of_what_learns_are_left() -> None:
    learning, shared = build("resnet_cifar", arch="8").requires_grad_(True), build("resnet_cifar", arch="8")
    kept = learning.backbone, shared.backbone
    with quickened(
        [learning, shared, nn.Linear(2, 2)], nn.ModuleList([shared.neck, shared.backbone]), images(), "fp32"
    ) as told:
        assert (learning.backbone, shared.backbone) == kept
    assert told is None


def test_it_is_as_it_was_after_an_error() -> None:
    teacher = build("resnet_cifar", arch="8")
    backbone = teacher.backbone
    with pytest.raises(ZeroDivisionError), quickened([teacher], nn.Linear(1, 1), images(), "fp32"):
        raise ZeroDivisionError
    assert teacher.backbone is backbone


@pytest.mark.parametrize("name", ["kd", "th_kd", "sim_kd"])
def test_methods_that_wear_the_teachers_parts_learn_the_same(name: str) -> None:
    made = lessons.make(name, "verification")
    (stage,) = made.stages()
    batch, found = lessons.batch(), []
    for quick in (False, True):
        stage.learner.train().zero_grad()
        torch.manual_seed(0)
        with quickened(stage.frozen if quick else (), stage.learner, batch.images, "fp32") as told:
            assert bool(told) == quick
            loss = torch.stack(list(stage.losses(batch).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in stage.learner.parameters() if p.grad is not None]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert found[0].norm() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))


class Odd(nn.Module):
    """A convolution and a norm behind it, joined in a way of its own."""

    def __init__(self, join: Callable[["Odd", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.join = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), join
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x)


ODD: dict[str, Callable[[Odd, Tensor], Tensor]] = {
    "changed in place": lambda m, x: m.norm(m.relu(m.conv(x))),
    "the layer is run twice": lambda m, x: m.norm(m.conv(x)) + m.conv(x.flip(3)),
    "the norm is run twice": lambda m, x: m.norm(m.conv(x)) + m.norm(m.conv.weight.sum((1, 2, 3)).view(1, 4, 1, 1)),
    "something in between": lambda m, x: m.norm(m.conv(x) + 1),
}


@pytest.mark.parametrize("how", ODD)
def test_no_norm_is_folded_that_must_not_be(how: str) -> None:
    torch.manual_seed(0)
    odd = Odd(ODD[how]).eval()
    copied, count = folded(odd, images())
    assert count == 0
    assert torch.equal(copied(images()), odd(images()))


def test_a_net_whose_folding_changes_its_answers_is_left() -> None:
    """What a norm reads is read by another, too, which running the net does not show."""
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def joined(m: Odd, x: Tensor) -> Tensor:
        found = m.conv(x)
        return m.norm(found) - found  # type: ignore[no-any-return]

    torch.manual_seed(0)
    teacher = worn_in(net.Net(Odd(joined), neck, heads.Linear(4, 5)))
    assert folded(teacher.backbone, images())[1] == 1
    backbone = teacher.backbone
    with quickened([teacher], nn.Linear(1, 1), images(), "fp32") as told:
        assert teacher.backbone is backbone
    assert told is None


def test_a_norm_that_is_listened_to_stays() -> None:
    teacher = build("resnet_cifar", arch="8")
    heard: list[Tensor] = []
    first = teacher.backbone.get_submodule("bn1")
    first.register_forward_hook(lambda module, given, out: heard.append(out))
    _, count = folded(teacher.backbone, images())
    assert count == norms(teacher.backbone) - 1
    assert quick_teacher.FORM


class ByName(nn.Module):
    """Its norm is given its input by name, so that nobody sees whose output that is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(input=self.conv(x))
        return out


def test_a_norm_that_is_called_by_name_is_left() -> None:
    assert folded(ByName().eval(), images())[1] == 0
