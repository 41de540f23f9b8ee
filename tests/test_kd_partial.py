"""Sampled classes: the losses against formulas on the drawn columns, and rows that are not drawn stay as they are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kd2edge.data import open_source
from kd2edge.kd import heads, method, net, partial, rows
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage
from kd2edge.kd.schedule import optimizer
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.schema import Head, NetSpec, Plugin, Train
from tests import tiny
from tests.lessons import cross_entropy, divergence, spec, trained
from tests.test_kd_train import Interrupting

pytestmark = pytest.mark.kd

CLASSES = 40
SHAPE = net.Shape(1, (16, 16), CLASSES)
SEED = 11


def section(head: str = "arcface", share: float = 0.3) -> dict[str, object]:
    return {**tiny.net((8, 8, 16), 12), "head": {"name": head, "sample": share}}


def taught(name: str, share: float = 0.3, teacher: str = "arcface", **options: object) -> Method:
    """A method with a student that samples and a teacher whose recipe says nothing of it."""
    torch.manual_seed(3)
    frozen = trained(net.build(spec(section(teacher, 1.0)), SHAPE))
    torch.manual_seed(4)
    student = net.build(spec(section(share=share)), SHAPE)
    student.eval().head.weight.data *= 20
    lesson = Lesson(Task("verification"), SHAPE, spec(section(share=share)), frozen, student=student)
    return method.make(Plugin.model_validate({"name": name, **options}), lesson)


def batch(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Batch(torch.randn(count, 1, 16, 16, generator=generator), labels)


def cosines(embedding: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    z, w = embedding.detach().double().numpy(), weight.detach().double().numpy()
    unit_z, unit_w = z / np.linalg.norm(z, axis=1, keepdims=True), w / np.linalg.norm(w, axis=1, keepdims=True)
    return np.asarray(unit_z @ unit_w.T)


def with_arcface(logits: np.ndarray, places: np.ndarray) -> np.ndarray:
    margined: np.ndarray = logits.copy()
    at = (np.arange(len(places)), places)
    margined[at] = 32 * np.cos(np.arccos(logits[at] / 32) + 0.3)
    return margined


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_a_draw_has_the_labels_and_so_many_others_as_the_seed_says(share: float) -> None:
    labels = torch.tensor([39, 7, 7, 0])
    torch.manual_seed(SEED)
    chosen, other = (partial.choose(labels, CLASSES, share) for _ in range(2))
    torch.manual_seed(SEED)
    assert torch.equal(chosen, partial.choose(labels, CLASSES, share))
    assert len(chosen) == math.ceil(share * CLASSES)
    for draw in (chosen, other):
        assert {0, 7, 39} <= set(draw.tolist())
        assert bool((draw.diff() > 0).all())
    assert torch.equal(chosen, other) == (share == 1)
    assert partial.choose(labels, CLASSES, 0.01).tolist() == [0, 7, 39]
    assert len(partial.choose(labels[:0], CLASSES, share)) == math.ceil(share * CLASSES)


def test_other_classes_are_equally_likely() -> None:
    torch.manual_seed(SEED)
    draws = [partial.choose(torch.tensor([3]), CLASSES, 0.25) for _ in range(2000)]
    counts = torch.cat(draws).bincount(minlength=CLASSES).double() / len(draws)
    assert counts[3] == 1
    expected = 9 / 39  # nine others of 39
    assert float((counts - expected).abs()[torch.arange(CLASSES) != 3].max()) < 5 * math.sqrt(expected / 2000)


def drawn(made: Method, at: Batch) -> tuple[dict[str, float], torch.Tensor, np.ndarray, net.Out, net.Out]:
    """The losses of a step, the classes it drew and the labels' places there, what both nets say to its images."""
    torch.manual_seed(SEED)
    terms = {name: term.item() for name, term in next(iter(made.stages())).losses(at).items()}
    torch.manual_seed(SEED)
    chosen = partial.choose(at.labels, CLASSES, 0.3)
    places = np.array([chosen.tolist().index(label) for label in at.labels.tolist()])
    with torch.no_grad():
        return terms, chosen, places, made.student(at.images), made.teacher(at.images)


@pytest.mark.parametrize("teacher", ["arcface", "linear"])
def test_kd_on_a_share_of_classes_is_kd_of_the_drawn_columns(teacher: str) -> None:
    made, at = taught("kd", teacher=teacher, gamma=0.3, alpha=0.7, tau=2.0), batch()
    terms, chosen, places, student, answers = drawn(made, at)
    s = 32 * cosines(student.embedding, made.student.head.weight[chosen])
    t = answers.logits[:, chosen].double().numpy()
    expected = 0.3 * cross_entropy(with_arcface(s, places), places), 0.7 * divergence(s, t, 2.0)
    assert (terms["ce"], terms["kl"]) == pytest.approx(expected, rel=1e-4)


def test_th_kd_asks_the_teachers_head_for_the_drawn_classes_too() -> None:
    made, at = taught("th_kd", form="paper", alpha_th=0.6, gamma=1.0, alpha=1.0), batch()
    terms, chosen, places, student, answers = drawn(made, at)
    through = 32 * cosines(student.embedding, made.teacher.head.weight[chosen])
    t = 32 * cosines(answers.embedding, made.teacher.head.weight[chosen])
    assert terms["kl_th"] == pytest.approx(0.6 * divergence(through, t, 4.0), rel=1e-4)
    assert terms["ce_th"] == pytest.approx(0.6 * cross_entropy(with_arcface(through, places), places), rel=1e-4)


@pytest.mark.parametrize("name", ["plain", "kd", "th_kd"])
def test_all_classes_drawn_is_the_full_softmax(name: str) -> None:
    """To the last bit in the losses, which are those of 1.0; a gradient that is sparse there is dense here."""
    terms, gradients = [], []
    for share in (1.0, 0.999):
        made = taught(name, share)
        losses = next(iter(made.stages())).losses(batch())
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        terms.append({name: loss.item() for name, loss in losses.items()})
        gradients.append(made.student.head.weight.grad)
    dense, sparse = gradients
    assert terms[0] == terms[1]
    assert dense is not None
    assert sparse is not None
    assert (dense.is_sparse, sparse.is_sparse) == (False, True)
    assert torch.equal(sparse.to_dense(), dense)


def test_only_drawn_rows_get_a_gradient() -> None:
    made, at = taught("kd"), batch()
    torch.manual_seed(SEED)
    torch.stack(list(next(iter(made.stages())).losses(at).values())).sum().backward()  # type: ignore[no-untyped-call]
    gradient = made.student.head.weight.grad
    assert gradient is not None
    torch.manual_seed(SEED)
    chosen = partial.choose(at.labels, CLASSES, 0.3)
    assert torch.equal(gradient.coalesce().indices()[0], chosen)
    assert made.student.head.chosen is made.teacher.head.chosen is None  # all classes again
    weight = made.student.head.weight.detach().clone().requires_grad_()
    places = torch.searchsorted(chosen, at.labels)
    out, answers = made.student(at.images), made.teacher(at.images)
    head = heads.ArcFace(12, len(chosen), 32, 0.3)
    s = 32 * torch.nn.functional.linear(
        torch.nn.functional.normalize(out.embedding), torch.nn.functional.normalize(weight[chosen])
    )
    ce = torch.nn.functional.cross_entropy(head.with_margin(s, places), places)
    t = (answers.logits[:, chosen] / 4).log_softmax(1)
    kl = 16 * (t.exp() * (t - (s / 4).log_softmax(1))).sum() / len(places)
    (0.1 * ce + 0.9 * kl).backward()
    torch.testing.assert_close(gradient.to_dense(), weight.grad, rtol=1e-4, atol=1e-7)


PLANS = [
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.05},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0},
    {"optimizer": "adamw", "weight_decay": 0.05},
]


@pytest.mark.parametrize("options", PLANS, ids=str)
def test_a_row_moves_as_if_it_were_alone_and_only_when_it_is_drawn(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row's reference is an optimiser of its own, which steps when the row is drawn and not else."""
    monkeypatch.setattr(rows, "AT_ONCE", 2)
    plan = Train.model_validate({"epochs": 1, "lr": 0.1, **options})
    torch.manual_seed(SEED)
    head = heads.Cosine(4, 7, 1, 0)
    alone = [torch.nn.ParameterDict({"row": head.weight[i : i + 1].detach().clone()}) for i in range(7)]
    own, each = optimizer(head, plan), [optimizer(row, plan) for row in alone]
    for _ in range(6):
        chosen = partial.choose(torch.tensor([1]), 7, 0.6)
        gradients, before = torch.randn(len(chosen), 4), head.weight.detach().clone()
        with partial.narrowed(chosen, head):
            (head.centres() * gradients).sum().backward()  # type: ignore[no-untyped-call]
        own.step()
        assert head.weight.grad is None
        for place, index in enumerate(chosen.tolist()):
            alone[index]["row"].grad = gradients[place : place + 1].clone()
            each[index].step()
        left = [index for index in range(7) if index not in chosen]
        assert torch.equal(head.weight[left], before[left])
    together = torch.cat([row["row"] for row in alone])
    torch.testing.assert_close(head.weight.detach(), together.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", PLANS, ids=str)
def test_what_is_kept_of_rows_is_loaded_to_where_they_are(options: dict[str, object]) -> None:
    """As on a GPU from a checkpoint; torch leaves a state called `step` behind."""
    plan = Train.model_validate({"epochs": 1, "lr": 0.1, **options})
    head = heads.Cosine(4, 7, 1, 0)
    first = optimizer(head, plan)
    with partial.narrowed(torch.tensor([1, 4]), head):
        head.centres().sum().backward()  # type: ignore[no-untyped-call]
    first.step()
    elsewhere = heads.Cosine(4, 7, 1, 0).to("meta")
    resumed = optimizer(elsewhere, plan)
    resumed.load_state_dict(first.state_dict())
    kept = [value for state in resumed.state.values() for value in state.values() if value is not None]
    assert {value.device.type for value in kept if value.ndim} <= {"meta"}
    assert any(value.ndim for value in kept) == (plan.momentum > 0)


def test_clipping_counts_the_drawn_rows() -> None:
    def clipped(share: float) -> tuple[torch.Tensor, torch.Tensor]:
        made = taught("kd", share)
        made.student.train()
        torch.manual_seed(SEED)
        torch.stack(list(next(iter(made.stages())).losses(batch()).values())).sum().backward()  # type: ignore[no-untyped-call]
        rows.clip(made.student.parameters(), 0.01)
        gradient, other = made.student.head.weight.grad, next(made.student.backbone.parameters()).grad
        assert gradient is not None
        assert other is not None
        return gradient.to_dense() if gradient.is_sparse else gradient, other

    for sparse, dense in zip(clipped(0.999), clipped(1.0), strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-9)


def test_an_embedding_used_twice_sums_both_gradients() -> None:
    head, chosen = heads.Cosine(4, 7, 1, 0), torch.tensor([1, 4, 6])
    with partial.narrowed(chosen, head):
        (head.centres() + 2 * head.centres()).sum().backward()  # type: ignore[no-untyped-call]
    made = optimizer(head, Train.model_validate({"epochs": 1, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}))
    before = head.weight.detach().clone()
    rows.clip(head.parameters(), 1e9)
    made.step()
    moved = (before - head.weight.detach()).round(decimals=5)
    assert moved.sum(1).tolist() == pytest.approx([0, 12, 0, 0, 12, 0, 12])


class Faces:
    """A stage of a tiny net with a head that samples two of three classes, on batches of two."""

    def __init__(self, data: Path, out: Path) -> None:
        self.source = open_source({"name": "imagefolder", "path": str(data), "size": 16})
        torch.manual_seed(0)
        self.net = net.build(NetSpec.model_validate(section(share=0.5)), net.Shape(3, (16, 16), 3))
        self.out = out
        out.mkdir(exist_ok=True)

    def train(self, optimizer: str, progress: Silent | None = None) -> dict[str, torch.Tensor]:
        task = Task("verification")

        def losses(batch: Batch) -> Losses:
            return {"ce": task.lesson(self.net, batch.images, batch.labels)}

        plan = Train.model_validate({"epochs": 2, "batch": 2, "lr": 0.01, "optimizer": optimizer})
        how, log = self.source.preprocessing(), self.out / "log.jsonl"
        trainer = Trainer(self.source.split("train"), how, plan, 0, self.out, log, progress or Silent())
        trainer.run(Stage("student", self.net, losses))
        return self.net.state_dict()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_resuming_draws_the_same_classes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "images", per_class=6, splits=("train",))
    straight = Faces(folder, tmp_path / "straight").train(kind)
    with pytest.raises(KeyboardInterrupt):
        Faces(folder, tmp_path / "resumed").train(kind, Interrupting(12))
    resumed = Faces(folder, tmp_path / "resumed").train(kind)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_a_linear_head_cannot_sample_and_a_share_is_one() -> None:
    with pytest.raises(ValidationError, match="cosine"):
        Head.model_validate({"name": "linear", "sample": 0.5})
    with pytest.raises(ValidationError):
        Head.model_validate({"name": "arcface", "sample": 0})


def test_a_head_that_samples_prints_so_and_another_as_ever() -> None:
    """Finished stages are found by what a head prints as."""
    assert "sample" not in repr(heads.build(Head(name="arcface"), 4, 7))
    assert "sample=0.5" in repr(heads.build(Head(name="arcface", sample=0.5), 4, 7))
