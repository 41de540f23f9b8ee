"""Depthwise convolutions that compute in float32 for a while: the same function, and only those that gain by it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from kd2edge.kd import depthwise, net
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd
CPU = torch.device("cpu")


def layer(channels: int = 8, kernel: int = 3, stride: int = 2, groups: int = 8) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, 8, kernel, stride, kernel // 2, groups=groups, bias=False)


@contextmanager
def bf16() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


def gradients(made: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of input and weight."""
    given = x.clone().requires_grad_()
    out = made(given)
    towards = torch.autograd.grad(out.float().square().sum(), [given, made.weight])
    return out, *towards


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (7, 2)])
def test_it_computes_the_same_and_hands_on_what_autocast_asks_for(kernel: int, stride: int) -> None:
    made, x = layer(kernel=kernel, stride=stride), torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(1))
    exact = gradients(made, x.bfloat16().float())
    with depthwise.in_float32(CPU, "bf16", made), bf16():
        found = gradients(made, x.bfloat16())
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], exact[0].bfloat16())
    for one, other in zip(found[1:], exact[1:], strict=True):
        assert (one.float() - other).norm() < 0.01 * other.norm()


def test_without_autocast_nothing_is_rounded() -> None:
    made, x = layer(), torch.randn(2, 8, 6, 6)
    wanted = made(x)
    with depthwise.in_float32(CPU, "bf16", made):
        assert torch.equal(made(x), wanted)


@pytest.mark.parametrize(
    ("device", "precision", "made"),
    [
        ("cuda", "bf16", layer()),
        ("cpu", "fp32", layer()),
        ("cpu", "bf16", layer(stride=1)),
        ("cpu", "bf16", layer(groups=1)),
        ("cpu", "bf16", layer(groups=4)),
        ("cpu", "bf16", layer(channels=1, groups=1)),
    ],
)
def test_others_are_left(device: str, precision: str, made: nn.Conv2d) -> None:
    with depthwise.in_float32(torch.device(device), precision, made):
        assert "_conv_forward" not in vars(made)


def test_a_net_is_as_it_was_afterwards() -> None:
    spec = NetSpec.model_validate({"model": {"name": "mobilefacenet", "multiplier": 0.25}, "neck": "gdc"})
    made = net.build(spec, net.Shape(3, (32, 32), 4))
    names, kept = list(made.state_dict()), [dict(vars(module)) for module in made.modules()]
    with depthwise.in_float32(CPU, "bf16", made):
        changed = [module for module in made.modules() if "_conv_forward" in vars(module)]
        assert len(changed) == 3  # the paper's bottlenecks of stride 2; at 32 pixels the neck's kernel is 2 wide
        assert list(made.state_dict()) == names
    assert [dict(vars(module)) for module in made.modules()] == kept
    with pytest.raises(ZeroDivisionError), depthwise.in_float32(CPU, "bf16", made):
        raise ZeroDivisionError
    assert [dict(vars(module)) for module in made.modules()] == kept
