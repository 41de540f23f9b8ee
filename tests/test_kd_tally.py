"""Losses that are looked at now and then only: sums as if they had been looked at each time, and a NaN's very step."""

import json

import pytest
import torch

from kd2edge.errors import Diverged
from kd2edge.kd.tally import Tally

pytestmark = pytest.mark.kd


def test_sums_are_those_of_float64_in_order() -> None:
    tally, generator = Tally("here", {}), torch.Generator().manual_seed(0)
    sums = {"loss": 0.0, "ce": 0.0, "kl": 0.0}
    for step in range(30):
        ce, kl = torch.rand(2, generator=generator).tolist()
        tally.add(step, ["ce", "kl"], torch.tensor([ce, kl]))
        for name, value in {"loss": ce + kl, "ce": ce, "kl": kl}.items():
            sums[name] += value
    assert tally.read() == sums


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_an_epoch_that_was_interrupted_is_summed_up_to_the_same_bits(cut: int) -> None:
    values = torch.rand(20, 2, generator=torch.Generator().manual_seed(1))
    straight, first = Tally("here", {}), Tally("here", {})
    for step in range(20):
        straight.add(step, ["a", "b"], values[step])
    for step in range(cut):
        first.add(step, ["a", "b"], values[step])
    second = Tally("here", json.loads(json.dumps(first.read())))
    for step in range(cut, 20):
        second.add(step, ["a", "b"], values[step])
    assert second.read() == straight.read()


def test_terms_may_come_and_go_in_any_order() -> None:
    tally = Tally("here", {})
    tally.add(0, ["a"], torch.tensor([1.0]))
    tally.add(1, ["b", "a"], torch.tensor([10.0, 2.0]))
    tally.add(2, ["b"], torch.tensor([20.0]))
    assert tally.read() == {"loss": 33.0, "a": 3.0, "b": 30.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_step_that_is_not_finite_is_named_however_late_one_asks(bad: float) -> None:
    tally = Tally("stage student, epoch 3", {})
    for step in range(20):
        tally.add(step, ["ce", "kl"], torch.tensor([0.5, bad if step in (6, 9) else 1.0]))
    with pytest.raises(Diverged, match=rf"stage student, epoch 3, step 7 \(ce = 0\.5, kl = {bad:g}\)") as caught:
        tally.read()
    assert "lower train.lr" in str(caught.value)
