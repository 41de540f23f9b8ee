"""Classifier sharing: TH-KD in both forms and SH-KD, their losses, what they freeze and what they ship."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy.special import softmax

from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.kd import heads, to_onnx
from kd2edge.kd.check import plugin_faults
from kd2edge.kd.method import Method, Stage
from kd2edge.schema import Head, TaskName
from tests.lessons import HEADS, SHAPE, batch, cross_entropy, divergence, make, outputs

pytestmark = pytest.mark.kd


def terms(made: Method, stage: Stage | None = None) -> dict[str, float]:
    stage = stage or next(iter(made.stages()))
    return {name: value.item() for name, value in stage.losses(batch()).items()}


def through(made: Method, task: TaskName, embedding: np.ndarray) -> np.ndarray:
    """The teacher's head on an embedding, in numpy."""
    weight = made.teacher.head.weight.detach().double().numpy()
    if task == "verification":
        z, w = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (embedding, weight))
        return np.asarray(32 * z @ w.T)
    assert made.teacher.head.bias is not None
    bias: np.ndarray = made.teacher.head.bias.detach().double().numpy()
    return np.asarray(embedding @ weight.T + bias)


def margined(logits: np.ndarray, labels: np.ndarray, task: TaskName) -> np.ndarray:
    """ArcFace's s·cos(θ + m) at each sample's class, with tiny's scale and margin; linear heads have none."""
    if task == "classification":
        return logits
    out: np.ndarray = logits.copy()
    rows = np.arange(len(labels))
    out[rows, labels] = 32 * np.cos(np.arccos(logits[rows, labels] / 32) + 0.3)
    return out


@pytest.mark.parametrize("task", list(HEADS))
@pytest.mark.parametrize("mix", [0.25, 1.0])
def test_the_papers_form_mixes_both_heads_in_ce_and_kl(task: TaskName, mix: float) -> None:
    made, at = make("th_kd", task, form="paper", gamma=0.3, alpha=0.7, tau=2.0, alpha_th=mix), batch()
    made.student.eval()
    student, teacher = outputs(made, at)
    s, t = student.logits.double().numpy(), teacher.logits.double().numpy()
    th, labels = through(made, task, student.embedding.double().numpy()), at.labels.numpy()
    expected = {
        "ce_th": mix * 0.3 * cross_entropy(margined(th, labels, task), labels),
        "kl_th": mix * 0.7 * divergence(th, t, 2.0),
    }
    if mix < 1:
        expected["ce"] = (1 - mix) * 0.3 * cross_entropy(margined(s, labels, task), labels)
        expected["kl"] = (1 - mix) * 0.7 * divergence(s, t, 2.0)
    assert terms(made) == pytest.approx(expected, rel=1e-4)


def test_embedding_l2_is_the_mean_squared_distance_of_normalised_embeddings() -> None:
    made, at = make("kd", "verification", embedding_l2=3.0), batch()
    made.student.eval()
    z, t = (out.embedding.double().numpy() for out in outputs(made, at))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True) - t / np.linalg.norm(t, axis=1, keepdims=True)
    assert terms(made)["embedding_l2"] == pytest.approx(3 * (unit**2).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("name", ["kd", "th_kd"])
def test_companions_bridge_unequal_widths_and_do_not_ship(name: str) -> None:
    made = make(name, "classification", widths=(8, 8, 20), embedding_l2=1.0, crd={"weight": 0.8})
    stage = next(iter(made.stages()))
    found = stage.losses(batch())
    assert {"embedding_l2", "crd"} <= set(found)
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
    trained = {key.split(".")[0] for key, value in stage.learner.named_parameters() if value.grad is not None}
    assert "company" in trained
    assert made.deployable() is made.student


def test_with_alpha_th_one_the_exported_graph_holds_the_teachers_head_bit_for_bit(tmp_path: Path) -> None:
    made = make("th_kd", "classification", form="paper", alpha_th=1.0)
    train(made)
    to_onnx.export(made.deployable(), "logits", batch(9, 4).images.numpy(), tmp_path / "net.onnx")
    assert holds(tmp_path / "net.onnx", made.teacher.head.weight)
    assert not holds(tmp_path / "net.onnx", made.student.head.weight)


def test_a_mix_of_heads_ships_the_mix_of_their_probabilities(tmp_path: Path) -> None:
    made, at = make("th_kd", "classification", form="paper", alpha_th=0.3), batch(9, 4)
    train(made)
    made.student.eval()
    student, _ = outputs(made, at)
    th = through(made, "classification", student.embedding.double().numpy())
    expected = 0.7 * softmax(student.logits.double().numpy(), axis=1) + 0.3 * softmax(th, axis=1)
    to_onnx.export(made.deployable(), "logits", at.images.numpy(), tmp_path / "net.onnx")
    logits = run_onnx(tmp_path / "net.onnx", at.images.numpy())
    np.testing.assert_allclose(softmax(logits, axis=1), expected, rtol=1e-4, atol=1e-6)


def test_the_papers_form_ships_its_adapter() -> None:
    made = make("th_kd", "classification", widths=(8, 8, 20), form="paper", alpha_th=1.0)
    shipped = made.deployable()
    assert shipped(batch().images).embedding.shape[1] == made.teacher.head.weight.shape[1] == 16


def test_a_students_head_can_start_from_the_teachers_and_its_drift_is_told() -> None:
    made = make("th_kd", "classification", init_head=True)
    stage = next(iter(made.stages()))
    assert stage.watch is not None
    assert stage.watch() == pytest.approx({"head_cosine_mean": 1, "head_cosine_min": 1, "head_bias_l2": 0})
    made.student.head.weight.data[0] *= -1
    assert stage.watch()["head_cosine_min"] == pytest.approx(-1)
    assert stage.watch()["head_cosine_mean"] == pytest.approx((SHAPE.classes - 2) / SHAPE.classes)


def test_a_head_of_another_width_cannot_be_started_from() -> None:
    with pytest.raises(UserError, match="cannot start from"):
        make("th_kd", "classification", widths=(8, 8, 20), init_head=True)


def test_a_weight_of_the_other_form_is_refused() -> None:
    with pytest.raises(UserError, match="alpha_th belongs to form: paper"):
        make("th_kd", "classification", alpha_th=0.5)
    with pytest.raises(UserError, match="beta belongs to form: code"):
        make("th_kd", "classification", form="paper", beta=0.5)


def train(made: Method) -> list[str]:
    """Two steps of every stage; the stages' names."""
    names = []
    for stage in made.stages():
        names.append(stage.name)
        stage.learner.train()
        optimizer = torch.optim.SGD([p for p in stage.learner.parameters() if p.requires_grad], lr=0.01)
        for step in range(2):
            optimizer.zero_grad()
            torch.stack(list(stage.losses(batch(step)).values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return names


def holds(path: Path, weight: torch.Tensor) -> bool:
    """Whether an ONNX file has an initializer of these very bits, transposed or not."""
    wanted = weight.detach().numpy()
    found = (onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer)
    return any(np.array_equal(item, wanted) or np.array_equal(item, wanted.T) for item in found)


@pytest.mark.parametrize("task", list(HEADS))
@pytest.mark.parametrize("teacher", ["scratch", "tuned"])
@pytest.mark.parametrize("widths", [(8, 8, 16), (8, 8, 20)])
def test_sh_kd_trains_the_teacher_under_the_students_frozen_head(
    task: TaskName, teacher: str, widths: tuple[int, int, int]
) -> None:
    made = make("sh_kd", task, widths=widths, teacher=teacher)
    before = made.exhibits()["tailored_teacher"].backbone.state_dict()["conv1.weight"].clone()
    assert train(made) == ["head_student", "tailored_teacher", "student"]
    tailored = made.exhibits()["tailored_teacher"]
    assert isinstance(first := getattr(made, "first"), Method)  # noqa: B009
    assert torch.equal(tailored.head.weight, first.student.head.weight)
    assert not any(p.requires_grad for p in tailored.parameters())
    assert not torch.equal(tailored.backbone.state_dict()["conv1.weight"], before)
    assert made.deployable() is not first.student
    assert not torch.equal(made.deployable().head.weight, first.student.head.weight)


def test_sh_kds_second_student_can_wear_the_shared_head(tmp_path: Path) -> None:
    distil = {"name": "th_kd", "form": "paper", "alpha_th": 1.0}
    made = make("sh_kd", "classification", distil=distil)
    train(made)
    to_onnx.export(made.deployable(), "logits", batch(9, 4).images.numpy(), tmp_path / "net.onnx")
    assert holds(tmp_path / "net.onnx", made.exhibits()["tailored_teacher"].head.weight)


def test_the_tailored_teacher_learns_by_cross_entropy_under_the_shared_head() -> None:
    made = make("sh_kd", "verification", teacher="tuned")
    stages = made.stages()
    next(stages)
    stage, at = next(stages), batch()
    stage.learner.eval()
    with torch.no_grad():
        z = stage.learner(at.images).embedding.double().numpy()
    weight, labels = made.exhibits()["tailored_teacher"].head.weight.double().numpy(), at.labels.numpy()
    z, weight = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, weight))
    expected = cross_entropy(margined(32 * z @ weight.T, labels, "verification"), labels)
    assert terms(made, stage) == pytest.approx({"ce": expected}, rel=1e-4)


@pytest.mark.parametrize(
    "first",
    [{"name": "sim_kd"}, {"name": "th_kd", "form": "paper"}, {"name": "th_kd", "form": "paper", "alpha_th": 0.5}],
)
def test_a_first_student_that_ships_another_classifier_is_refused_before_training(first: dict[str, object]) -> None:
    with pytest.raises(UserError, match="ships another"):
        make("sh_kd", "classification", first=first)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("th_kd", {"form": "paper", "alpha_th": 0.5}),
        ("th_kd", {"form": "paper", "alpha_th": 1.0}),
        ("sh_kd", {"distil": {"name": "sim_kd"}}),
    ],
)
def test_what_unequal_widths_ship_is_exported_with_parity(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    made = make(name, "classification", widths=(8, 8, 20), **options)
    train(made)
    _, found = to_onnx.export(made.deployable(), "logits", batch(9, 4).images.numpy(), tmp_path / "net.onnx")
    assert found.cosine_min > 0.99999


def test_what_the_papers_form_adds_is_counted() -> None:
    assert make("th_kd", "classification").account() == {}
    one = make("th_kd", "classification", widths=(8, 8, 20), form="paper", alpha_th=1.0)
    assert one.account() == {"adapter_parameters": 20 * 16 + 16}
    both = make("th_kd", "classification", widths=(8, 8, 20), form="paper", alpha_th=0.5)
    assert both.account() == {"adapter_parameters": 20 * 16 + 16, "second_head_parameters": 16 * 5 + 5}


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"distil": {"name": "th_kdd"}}, "no 'th_kdd' among the methods"),
        ({"distil": {"name": "kd", "alpa": 1}}, "alpa: unknown key"),
        ({"first": {"name": "sh_kd"}}, "cannot be a step of itself"),
    ],
)
def test_faults_of_sh_kds_steps_are_told_with_the_recipes(section: dict[str, object], fault: str) -> None:
    found = plugin_faults({"method": {"name": "sh_kd", **section}})
    assert len(found) == 1
    assert fault in found[0]


def test_a_mixed_head_is_a_head() -> None:
    own, theirs = (heads.build(Head(), 4, 3) for _ in range(2))
    mixed = heads.MixedHead(own, torch.nn.Identity(), theirs, 0.5)
    assert mixed.weight is own.weight
    assert mixed(torch.randn(2, 4)).exp().sum(1).tolist() == pytest.approx([1.0, 1.0])
