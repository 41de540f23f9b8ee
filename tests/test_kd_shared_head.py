"""A head made by training: by both nets' embeddings, or as a moving average of the teacher's, each by its formula."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd2edge.errors import UserError
from kd2edge.kd import net
from kd2edge.kd.method import Batch, Method
from kd2edge.kd.methods.shared_head import SharedHead
from tests import tiny
from tests.lessons import SHAPE, batch, cross_entropy, divergence, make, outputs, spec

pytestmark = pytest.mark.kd


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def margined(z: np.ndarray, w: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of an ArcFace head of scale 32 and margin 0.3, without the margin and with it."""
    logits = 32 * unit(z) @ unit(w).T
    own, rows = logits.copy(), np.arange(len(labels))
    own[rows, labels] = 32 * np.cos(np.arccos(logits[rows, labels] / 32) + 0.3)
    return logits, own


def double(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().double().numpy())


def terms_of(made: Method, at: Batch) -> dict[str, float]:
    return {name: term.item() for name, term in next(iter(made.stages())).losses(at).items()}


def test_joint_learns_from_both_nets_embeddings() -> None:
    made, at = make("shared_head", "verification", gamma=0.5, beta=0.25, alpha=0.7, tau=2.0), batch()
    made.student.eval()
    student, teacher = outputs(made, at)
    terms, labels, w = terms_of(made, at), at.labels.numpy(), double(made.student.head.weight)
    s, own = margined(double(student.embedding), w, labels)
    _, theirs = margined(double(teacher.embedding), w, labels)
    t, _ = margined(double(teacher.embedding), double(made.teacher.head.weight), labels)
    assert terms == pytest.approx(
        {
            "ce": 0.5 * cross_entropy(own, labels),
            "ce_teacher": 0.25 * cross_entropy(theirs, labels),
            "kl": 0.7 * divergence(s, t, 2.0),
        },
        rel=1e-4,
    )


def test_joints_head_gets_both_gradients_and_the_teacher_none() -> None:
    made, at = make("shared_head", "verification"), batch()
    gradients = []
    for names in (["ce"], ["ce_teacher"], ["ce", "ce_teacher"]):
        made.student.eval().zero_grad()
        losses = next(iter(made.stages())).losses(at)
        torch.stack([losses[name] for name in names]).sum().backward()  # type: ignore[no-untyped-call]
        assert made.student.head.weight.grad is not None
        gradients.append(made.student.head.weight.grad.clone())
    assert all(bool(gradient.any()) for gradient in gradients)
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2])
    assert all(parameter.grad is None for parameter in made.teacher.parameters())


def test_joint_bridges_unequal_widths_in_training_only() -> None:
    made = make("shared_head", "classification", widths=(8, 8, 20))
    stage = next(iter(made.stages()))
    stage.losses(batch())["ce_teacher"].backward()  # type: ignore[no-untyped-call]
    bridge = dict(stage.learner.named_parameters())["adapter.weight"]
    assert bridge.shape == (20, 16)
    assert bridge.grad is not None
    assert made.deployable() is made.student


def moved(w: np.ndarray, student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AdaDistill's centres, by the formula, an image at a time; a class's images are averaged."""
    result: np.ndarray = w.copy()
    for label in set(labels.tolist()):
        updates = []
        for row in np.flatnonzero(labels == label):
            z_s, z_t = unit(student[row : row + 1])[0], unit(teacher[row : row + 1])[0]
            known = np.clip(w[label] @ z_t / np.linalg.norm(w[label]), 1e-6, 1)
            keep = np.clip((z_s @ z_t) * known, 1e-6, 1)
            updates.append(keep * w[label] + (1 - keep) * z_t)
        result[label] = np.mean(updates, axis=0)
    return result


def test_ema_moves_the_centres_of_the_batch_and_then_compares() -> None:
    made, at = make("shared_head", "verification", mode="ema", gamma=0.5, alpha=0.7, tau=2.0), batch(count=4)
    at = Batch(at.images, torch.tensor([3, 0, 3, 1]))  # classes 2 and 4 are not in it
    made.student.eval()
    student, teacher = outputs(made, at)
    z_s, z_t, labels = double(student.embedding), double(teacher.embedding), at.labels.numpy()
    w = double(made.student.head.weight)
    for _ in range(3):
        terms, w = terms_of(made, at), moved(w, z_s, z_t, labels)
        np.testing.assert_allclose(double(made.student.head.weight), w, rtol=1e-4, atol=1e-6)
        s, own = margined(z_s, w, labels)
        t, _ = margined(z_t, double(made.teacher.head.weight), labels)
        expected = {"ce": 0.5 * cross_entropy(own, labels), "kl": 0.7 * divergence(s, t, 2.0)}
        assert terms == pytest.approx(expected, rel=1e-4)


def test_no_gradient_moves_emas_centres_and_they_are_saved_with_the_student() -> None:
    made = make("shared_head", "verification", mode="ema")
    stage = next(iter(made.stages()))
    before = made.student.head.weight.clone()
    sum(stage.losses(batch()).values()).backward()  # type: ignore[union-attr]
    assert made.student.head.weight.grad is None
    assert not torch.equal(made.student.head.weight, before)
    assert torch.equal(stage.learner.state_dict()["student.head.weight"], made.student.head.weight)
    assert made.deployable() is made.student


def test_ema_on_a_share_of_classes_moves_every_class_of_the_batch() -> None:
    full, part = (make("shared_head", "verification", mode="ema") for _ in range(2))
    assert isinstance(part, SharedHead)
    part.student.head.sample = 0.2  # the batch has all five classes, which are always in
    assert terms_of(full, batch()) == pytest.approx(terms_of(part, batch()), rel=1e-5)
    assert torch.equal(full.student.head.weight, part.student.head.weight)


def test_ema_is_refused_where_the_teachers_embeddings_cannot_be_centres_and_beside_beta() -> None:
    """A linear head; embeddings of other widths."""
    with pytest.raises(UserError, match="do not fit"):
        make("shared_head", "classification", mode="ema")
    with pytest.raises(UserError, match="beta belongs to mode: joint"):
        make("shared_head", "verification", mode="ema", beta=0.5)
    made = make("shared_head", "verification")
    wide = net.build(spec(tiny.net((8, 8, 16), 10, "arcface")), SHAPE)
    with pytest.raises(UserError, match="do not fit"):
        SharedHead(SharedHead.Config(mode="ema"), replace(made.lesson, student=wide))


def test_companions_go_beside_it() -> None:
    terms = terms_of(make("shared_head", "verification", embedding_l2=2.0), batch())
    assert set(terms) == {"ce", "ce_teacher", "embedding_l2"}
    assert isinstance(make("shared_head", "verification").student, net.Net)
