"""Losses and heads against numbers worked out by hand, and against formulas written anew in numpy and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from kd2edge import schema
from kd2edge.kd import heads
from kd2edge.kd.losses import kl

pytestmark = pytest.mark.kd


def test_kl_by_hand() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    # p_t = (3/4, 1/4), p_s = (1/2, 1/2): 3/4·ln(3/2) − 1/4·ln 2
    assert kl(student, teacher, tau=1).item() == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 964])
def test_kl_has_its_textbook_scale(classes: int) -> None:
    generator = np.random.default_rng(0)
    s, t = generator.normal(0, 3, (2, 7, classes))
    expected = 16 * rel_entr(softmax(t / 4, axis=1), softmax(s / 4, axis=1)).sum(axis=1).mean()
    assert kl(torch.tensor(s), torch.tensor(t), tau=4).item() == pytest.approx(expected, rel=1e-5)


def test_kl_of_a_net_with_itself_is_zero() -> None:
    logits = torch.randn(5, 9)
    assert kl(logits, logits, tau=4).item() == pytest.approx(0, abs=1e-6)


def cosine_head(name: str, scale: float, margin: float) -> heads.Head:
    head = heads.build(schema.Head.model_validate({"name": name, "scale": scale, "margin": margin}), 2, 2)
    head.weight.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    return head


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", 32 * 0.5),
        ("cosface", 32 * (0.5 - 0.3)),
        ("arcface", 32 * math.cos(math.pi / 3 + 0.3)),
    ],
)
def test_margins_by_hand(name: str, expected: float) -> None:
    head = cosine_head(name, 32, 0.3)
    embedding = torch.tensor([[3 * 0.5, 3 * math.sqrt(0.75)]])  # 60 degrees from the first centre, 30 from the second
    logits = head(embedding)
    assert logits[0].tolist() == pytest.approx([16.0, 32 * math.sqrt(0.75)], rel=1e-5)
    margined = head.with_margin(logits, torch.tensor([0]))
    assert margined[0].tolist() == pytest.approx([expected, 32 * math.sqrt(0.75)], rel=1e-4)


def test_arcface_stays_monotone_beyond_pi_minus_margin() -> None:
    head = cosine_head("arcface", 1, 0.5)
    angles = torch.linspace(0.01, math.pi - 0.01, 200)
    logits = torch.stack([torch.cos(angles), torch.zeros_like(angles)], 1)
    values = head.with_margin(logits, torch.zeros(200, dtype=torch.int64))[:, 0]
    assert bool((values.diff() < 0).all())


def test_cross_entropy_with_margin_against_scipy() -> None:
    head = cosine_head("cosface", 8, 0.35)
    generator = np.random.default_rng(1)
    embedding, labels = generator.normal(size=(6, 2)), np.array([0, 1, 0, 1, 1, 0])
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    logits = 8 * unit
    logits[np.arange(6), labels] -= 8 * 0.35
    expected = -log_softmax(logits, axis=1)[np.arange(6), labels].mean()
    ours = head(torch.tensor(embedding, dtype=torch.float32))
    got = torch.nn.functional.cross_entropy(head.with_margin(ours, torch.tensor(labels)), torch.tensor(labels))
    assert got.item() == pytest.approx(expected, rel=1e-5)
