"""Fused convolutions compute what the layers did, and no sum or activation is taken in that somebody else reads."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2edge.kd import heads, net
from kd2edge.kd.fold import folded
from kd2edge.kd.fused import fused
from kd2edge.kd.quick_teacher import quickened
from tests.test_kd_quick_teacher import OWN, answers, build, images, off

pytestmark = pytest.mark.kd


def first(made: object) -> Tensor:
    found = made[0] if isinstance(made, tuple) else made
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(("precision", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_every_net_of_the_shelf_answers_alike(name: str, precision: torch.dtype, most: float) -> None:
    plain = folded(build(name).backbone, images())[0]
    wanted, made = first(plain(images())), fused(plain, images(2), precision)
    if made is None:  # torch 2.13's oneDNN has no kernel for some grouped convolutions in bf16
        assert (name, precision) == ("shufflenet_v1_cifar", torch.bfloat16)
        return
    assert off(first(made[0](images())), wanted) < most
    assert torch.equal(first(plain(images())), wanted)


@pytest.mark.parametrize(
    ("arch", "convolutions"),
    [("8", 7), ("20", 19)],  # all but the two shortcuts of a stage's first blocks, which nothing follows but a sum
)
def test_all_of_a_residual_nets_are_fused(arch: str, convolutions: int) -> None:
    plain = folded(build("resnet_cifar", arch=arch).backbone, images())[0]
    made = fused(plain, images(2), torch.float32)
    assert made is not None
    assert made[1] == convolutions
    assert not any(isinstance(part, nn.ReLU | nn.BatchNorm2d | nn.Identity) for part in made[0].modules())


class Odd(nn.Module):
    """Two convolutions, joined in a way of its own."""

    def __init__(self, join: Callable[["Odd", Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.join = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), join
        self.narrow = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x)


def twice_read(m: Odd, x: Tensor) -> Tensor:
    made = m.two(F.relu(m.one(x)))
    out: Tensor = F.relu(made) - made
    return out


def read_later(m: Odd, x: Tensor) -> Tensor:
    """The sum must not take the place of what is read once more after it."""
    kept = F.relu(m.one(x))
    made = F.relu(m.two(kept) + kept)
    return made * kept


def added_in_place(m: Odd, x: Tensor) -> Tensor:
    held = m.one(x)
    other = held.flatten(1)
    held += m.two(F.relu(held))
    out: Tensor = F.relu(held) + other.view_as(held)
    return out


def known_later(m: Odd, x: Tensor) -> Tensor:
    made = m.two(F.relu(m.one(x)))
    return F.relu(made + m.one(x))


def broadcast(m: Odd, x: Tensor) -> Tensor:
    made = F.relu(m.one(x))
    return F.relu(m.narrow(made) + made)


def scaled(m: Odd, x: Tensor) -> Tensor:
    made = F.relu(m.one(x))
    return F.relu(torch.add(m.two(made), made, alpha=2))


def to_itself(m: Odd, x: Tensor) -> Tensor:
    made = m.two(F.relu(m.one(x)))
    return F.relu(made + made)


def plain_number(m: Odd, x: Tensor) -> Tensor:
    return F.relu(m.two(F.relu(m.one(x))) + 0.5)


ODD = (twice_read, read_later, known_later, broadcast, scaled, to_itself, plain_number)


@pytest.mark.parametrize("join", ODD)
@torch.no_grad()
def test_whatever_way_they_are_joined(join: Callable[[Odd, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    odd = Odd(join).eval()
    made = fused(odd, images(), torch.float32)
    assert made is not None
    for count in (4, 1):
        torch.testing.assert_close(made[0](images(count)), odd(images(count)), rtol=1e-4, atol=1e-5)


def test_a_teacher_that_adds_in_place_under_two_names_answers_as_it_did() -> None:
    torch.manual_seed(0)
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = net.freeze(net.Net(Odd(added_in_place), neck, heads.Linear(4, 5)))
    backbone, wanted = teacher.backbone, answers(teacher)
    made = fused(backbone, images(), torch.float32)
    assert made is not None
    assert off(first(made[0](images())), wanted.fmap) > 0.01
    with quickened([teacher], nn.Linear(1, 1), images(), "fp32") as told:
        assert teacher.backbone is backbone
    assert told is None


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_or_gains_nothing_is_left() -> None:
    torch.manual_seed(0)
    assert fused(Deciding(), images(), torch.float32) is None
    assert fused(nn.Conv2d(3, 4, 3).eval(), images(), torch.float32) is None
    listened = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    listened[0].register_forward_hook(lambda *_: None)
    assert fused(listened, images(), torch.float32) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_says_so_and_is_as_it_was(precision: str) -> None:
    teacher = build("resnet_cifar", arch="20")
    backbone = teacher.backbone
    with quickened([teacher], nn.Linear(1, 1), images(), precision) as told:
        assert "19 convolutions fused with what follows them" in str(told)
        assert teacher.backbone is not backbone
    assert teacher.backbone is backbone
