"""CRD against the formula written anew in numpy, and the queue's promises: order, bound, resuming bit-exactly."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from kd2edge.kd import checkpoint
from kd2edge.kd.crd import CRD

pytestmark = pytest.mark.kd

WIDTHS = (5, 7)
Floats = np.ndarray


def crd(**options: object) -> CRD:
    torch.manual_seed(5)
    return CRD(CRD.Config.model_validate({"dimensions": 3, **options}), *WIDTHS)


def plain(**options: object) -> CRD:
    """One whose projections are the identity of two dimensions, so that golden values can be told by hand."""
    made = CRD(CRD.Config.model_validate({"dimensions": 2, **options}), 2, 2)
    for layer in (made.project_student, made.project_teacher):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return made


def batch(seed: int, labels: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(len(labels), width, generator=generator) for width in WIDTHS)
    return student, teacher, torch.tensor(labels)


def projected(made: CRD, student: Tensor, teacher: Tensor) -> tuple[Floats, Floats]:
    pair = []
    for layer, embedding in ((made.project_student, student), (made.project_teacher, teacher)):
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        vectors = embedding.double().numpy() @ weight.T + bias
        pair.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return pair[0], pair[1]


def one_way(anchors: Floats, positives: Floats, labels: Floats, samples: Floats, owners: Floats, tau: float) -> float:
    """The loss of each anchor, one by one; `samples` are all that could be negatives, with the classes `owners`."""
    losses = []
    for anchor, positive, label in zip(anchors, positives, labels, strict=True):
        near = np.exp(anchor @ positive / tau)
        far = sum(
            np.exp(anchor @ sample / tau) for sample, owner in zip(samples, owners, strict=True) if owner != label
        )
        losses.append(-np.log(near / (near + far)))
    return float(np.mean(losses))


def test_two_images_of_two_classes_told_by_hand() -> None:
    """Student and teacher agree on orthogonal vectors: −log(e / (e + 1)) for each anchor, in both directions."""
    vectors = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    loss = plain(temperature=1.0)(vectors, vectors, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(2 * np.log(1 + np.exp(-1)), rel=1e-6)


def test_the_two_directions_differ_told_by_hand() -> None:
    """The student is blind (one vector for both images), so its anchors guess between two; the teacher's fare alike."""
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = plain(temperature=0.5)(student, teacher, torch.tensor([0, 1]))
    students_anchors = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(2))) / 2
    assert loss.item() == pytest.approx(students_anchors + np.log(2), rel=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, 1], [4, 4, 4, 1]])
def test_in_batch_negatives_are_images_of_other_classes(labels: list[int]) -> None:
    made = crd()
    student, teacher, classes = batch(1, labels)
    u, v = projected(made, student, teacher)
    expected = one_way(u, v, classes.numpy(), v, classes.numpy(), 0.07)
    expected += one_way(v, u, classes.numpy(), u, classes.numpy(), 0.07)
    assert made(student, teacher, classes).item() == pytest.approx(expected, rel=1e-4)


def test_queued_negatives_come_from_the_batches_before() -> None:
    made = crd(negatives="queue", queue=64)
    first, second = batch(1, [0, 1, 2]), batch(2, [1, 3, 0, 3])
    made(*first)
    (u0, v0), (u, v) = projected(made, *first[:2]), projected(made, *second[:2])
    labels, owners = second[2].numpy(), torch.cat([first[2], second[2]]).numpy()
    expected = one_way(u, v, labels, np.concatenate([v0, v]), owners, 0.07)
    expected += one_way(v, u, labels, np.concatenate([u0, u]), owners, 0.07)
    assert made(*second).item() == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_the_student_and_both_projections_but_not_the_teacher() -> None:
    made = crd(negatives="queue", queue=8)
    made(*batch(1, [0, 1, 2]))
    student, teacher, labels = batch(2, [0, 1, 2])
    student.requires_grad_()
    teacher.requires_grad_()
    made(student, teacher, labels).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    for parameter in made.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("labels", [[3, 3, 3], [3]])
def test_without_negatives_an_anchor_contributes_nothing(labels: list[int]) -> None:
    made = crd(negatives="queue", queue=8)
    for seed in (1, 2):  # the second time the queue holds the very same class
        student, teacher, classes = batch(seed, labels)
        student.requires_grad_()
        loss = made(student, teacher, classes)
        loss.backward()
        assert loss.item() == 0
        assert student.grad is not None
        assert torch.equal(student.grad, torch.zeros_like(student))


def test_an_empty_queue_adds_no_negatives() -> None:
    given = batch(1, [0, 1, 2])
    assert crd(negatives="queue")(*given).item() == crd(negatives="batch")(*given).item()


def test_the_queue_keeps_the_latest_in_a_ring() -> None:
    made = plain(negatives="queue", queue=4)
    for start in (0, 3, 6):
        labels = torch.arange(start, start + 3)
        angles = labels.float() / 10
        made(torch.stack([angles.cos(), angles.sin()], 1), torch.stack([angles.sin(), angles.cos()], 1), labels)
    assert made.queue_labels.tolist() == [8, 5, 6, 7]  # 0 to 4 were overwritten, the oldest first
    angles = made.queue_labels.float() / 10
    torch.testing.assert_close(made.student_queue, torch.stack([angles.cos(), angles.sin()], 1))
    torch.testing.assert_close(made.teacher_queue, torch.stack([angles.sin(), angles.cos()], 1))


def test_of_a_batch_larger_than_the_queue_the_last_are_kept() -> None:
    made = crd(negatives="queue", queue=4)
    made(*batch(1, [0]))
    made(*batch(2, [1, 2, 3, 4, 5, 6]))
    assert sorted(made.queue_labels.tolist()) == [3, 4, 5, 6]
    made(*batch(3, [7]))
    assert sorted(made.queue_labels.tolist()) == [4, 5, 6, 7]


def test_evaluation_looks_at_the_queue_and_leaves_it_alone() -> None:
    made, given = crd(negatives="queue", queue=8), batch(2, [0, 1, 2])
    made(*batch(1, [3, 4, 5]))
    before = {name: value.clone() for name, value in made.state_dict().items()}
    first, second = made.eval()(*given), made(*given)
    assert torch.equal(first, second)
    assert first > crd()(*given)  # more negatives, a greater loss
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("negatives", ["batch", "queue"])
def test_training_resumes_bit_exactly_from_a_checkpoint(negatives: str, tmp_path: Path) -> None:
    straight = crd(negatives=negatives, queue=5)
    straight(*batch(1, [0, 1, 2]))
    checkpoint.write(straight.state_dict(), tmp_path / "crd.safetensors")
    resumed = CRD(straight.config, *WIDTHS)
    resumed.load_state_dict(checkpoint.read(tmp_path / "crd.safetensors"))
    for seed, labels in ((2, [3, 0, 1]), (3, [2, 2, 4]), (4, [1, 0, 3])):
        assert torch.equal(straight(*batch(seed, labels)), resumed(*batch(seed, labels)))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def kept_bytes(made: CRD) -> int:
    return sum(buffer.numel() * buffer.element_size() for buffer in made.buffers())


def test_memory_is_bounded_whatever_passes_through() -> None:
    made = crd(negatives="queue", queue=6)
    assert kept_bytes(made) == 2 * 6 * 3 * 4 + (6 + 1) * 8
    for seed in range(5):
        made(*batch(seed, [0, 1, 2, 3]))
    assert kept_bytes(made) == 2 * 6 * 3 * 4 + (6 + 1) * 8
    assert kept_bytes(crd(negatives="batch")) == 8


def test_autocast_changes_nothing() -> None:
    """Sums of e^(g/τ) at τ = 0.07 are beyond bf16's eight bits."""
    given, half, full = batch(1, [0, 1, 2]), crd(negatives="queue"), crd(negatives="queue")
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = half(*given)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, full(*given))
    assert half.student_queue.dtype == torch.float32


def test_half_precision_embeddings_are_taken() -> None:
    student, teacher, labels = batch(1, [0, 1, 2])
    loss = crd()(student.bfloat16(), teacher.bfloat16(), labels)
    assert loss.item() == pytest.approx(crd()(student, teacher, labels).item(), rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_loss_is_no_less_than_zero_and_knows_no_order(labels: list[int], random: Random) -> None:
    student, teacher, classes = batch(7, labels)
    order = list(range(len(labels)))
    random.shuffle(order)
    loss = crd()(student, teacher, classes).item()
    assert loss >= 0
    assert crd()(student[order], teacher[order], classes[order]).item() == pytest.approx(loss, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("fault", [{"temperature": 0}, {"queue": 0}, {"negatives": "bank"}, {"weight": -1}])
def test_settings_without_sense_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CRD.Config.model_validate(fault)
