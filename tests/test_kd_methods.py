"""The contract of the methods shelf, and each method's loss against a formula written anew in numpy."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from kd2edge import shelves
from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.kd import foreign, heads, method, net, to_onnx
from kd2edge.kd.method import Lesson, Method
from kd2edge.kd.tasks import Task
from kd2edge.schema import Head, NetSpec, Plugin, TaskName
from tests import tiny
from tests.lessons import HEADS, SHAPE, batch, cross_entropy, divergence, make, outputs

pytestmark = pytest.mark.kd


@pytest.mark.parametrize("task", list(HEADS))
@pytest.mark.parametrize("name", shelves.names(shelves.METHODS))
def test_every_method_keeps_the_contract(name: str, task: TaskName, tmp_path: Path) -> None:
    made = make(name, task)
    before = copy.deepcopy(made.lesson.teacher.state_dict()) if made.lesson.teacher else {}
    for stage in made.stages():
        stage.learner.train()
        parameters = [p for p in stage.learner.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        for step in range(2):
            terms = stage.losses(batch(step))
            total = torch.stack(list(terms.values())).sum()
            assert torch.isfinite(total)
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for key, value in before.items():
        assert torch.equal(value, made.teacher.state_dict()[key]), f"{name} changed the teacher's {key}"
    samples = batch(9, 4).images.numpy()
    reference, found = to_onnx.export(made.deployable(), made.task.output, samples, tmp_path / "net.onnx")
    assert found.cosine_min > 0.99999
    assert b"kd2edge" not in (tmp_path / "net.onnx").read_bytes()  # no stack traces, no paths of this machine
    assert run_onnx(tmp_path / "net.onnx", samples[:3]).shape == (3, reference.shape[1])


@pytest.mark.parametrize("task", list(HEADS))
def test_plain_is_cross_entropy(task: TaskName) -> None:
    made, at = make("plain", task), batch()
    made.student.eval()
    logits, labels = made.student(at.images).logits.detach().double().numpy(), at.labels.numpy()
    rows = np.arange(len(labels))
    if task == "verification":  # ArcFace: scale 32, margin 0.3
        logits[rows, labels] = 32 * np.cos(np.arccos(logits[rows, labels] / 32) + 0.3)
    terms = {name: value.item() for name, value in next(iter(made.stages())).losses(at).items()}
    assert terms == pytest.approx({"ce": cross_entropy(logits, labels)}, rel=1e-4)


def test_kd_is_gamma_ce_plus_alpha_kl() -> None:
    made, at = make("kd", "classification", gamma=0.3, alpha=0.7, tau=2.0), batch()
    made.student.eval()
    student, teacher = outputs(made, at)
    terms = {k: v.item() for k, v in next(iter(made.stages())).losses(at).items()}
    s, t = student.logits.double().numpy(), teacher.logits.double().numpy()
    assert terms["ce"] == pytest.approx(0.3 * cross_entropy(s, at.labels.numpy()), rel=1e-5)
    assert terms["kl"] == pytest.approx(0.7 * divergence(s, t, 2.0), rel=1e-4)


@pytest.mark.parametrize("task", list(HEADS))
def test_th_kd_adds_the_frozen_teacher_head_on_the_students_embedding(task: TaskName) -> None:
    made, at = make("th_kd", task, beta=0.5), batch()
    made.student.eval()
    student, teacher = outputs(made, at)
    terms = next(iter(made.stages())).losses(at)
    z, w = student.embedding.double().numpy(), made.teacher.head.weight.detach().double().numpy()
    if task == "verification":
        through = 32 * (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    else:
        assert made.teacher.head.bias is not None
        through = z @ w.T + made.teacher.head.bias.detach().double().numpy()
    expected = 0.5 * divergence(through, teacher.logits.double().numpy(), 4.0)
    assert terms["kl_th"].item() == pytest.approx(expected, rel=1e-5)
    assert not made.teacher.head.weight.requires_grad


def test_th_kd_bridges_unequal_widths_in_training_only() -> None:
    made = make("th_kd", "classification", widths=(8, 8, 20))
    stage = next(iter(made.stages()))
    stage.losses(batch())["kl_th"].backward()  # type: ignore[no-untyped-call]
    assert any("adapter" in name for name, _ in stage.learner.named_parameters())
    assert made.deployable() is made.student


def test_sim_kd_is_the_mean_squared_error_of_feature_maps() -> None:
    made, at = make("sim_kd", "classification", factor=4), batch()
    stage = next(iter(made.stages()))
    stage.learner.eval()
    with torch.no_grad():
        projected, target = stage.learner(at.images).double().numpy(), made.teacher(at.images).fmap.double().numpy()
        assert stage.losses(at)["mse"].item() == pytest.approx(((projected - target) ** 2).mean(), rel=1e-5)


def test_sim_kd_ships_trunk_projector_and_the_teachers_neck() -> None:
    made = make("sim_kd", "verification", widths=(8, 8, 20), factor=2)
    shipped = made.deployable()
    assert shipped.neck is made.teacher.neck
    hidden = 16 // 2
    expected = 20 * hidden + 9 * hidden**2 + hidden * 16 + 4 * hidden + 2 * 16  # methods.md: the paper's projector
    projector = made.deployable().backbone.projector
    assert isinstance(projector, torch.nn.Module)
    assert sum(p.numel() for p in projector.parameters()) == expected
    assert shipped(batch().images).embedding.shape == (8, 12)


def foreign_teacher(*behind: torch.nn.Module, width: int = 16, embedding: int | None = None) -> net.Net:
    """A frozen net of another library: its own pooling, `behind` after it, and a linear classifier."""
    torch.manual_seed(4)
    trunk = (torch.nn.Conv2d(1, 16, 3, stride=4, padding=1), torch.nn.ReLU())
    pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    body = torch.nn.Sequential(*trunk, *pool, *behind, torch.nn.Linear(width, SHAPE.classes))
    backbone = foreign.ForeignBackbone(shelves.PluginConfig(), SHAPE, body)
    neck = net.Neck("gap", backbone, SHAPE.size, embedding)
    return net.freeze(net.Net(backbone, neck, heads.build(Head(), neck.width, SHAPE.classes)))


def sim_kd(teacher: net.Net, student: dict[str, object] | None = None) -> Method:
    lesson = Lesson(Task("classification"), SHAPE, NetSpec.model_validate(student or tiny.net()), teacher)
    return method.make(Plugin(name="sim_kd"), lesson)


@pytest.mark.parametrize("embedding", [None, 12])
def test_sim_kd_pools_for_a_teacher_that_pools_by_its_own_means(embedding: int | None, tmp_path: Path) -> None:
    teacher, at = foreign_teacher(embedding=embedding), batch()
    made = sim_kd(teacher)
    shipped, taught = made.deployable(), teacher(at.images)
    torch.testing.assert_close(shipped.neck(taught.fmap), taught.embedding)
    assert not any(module.training for module in teacher.modules())
    _, found = to_onnx.export(shipped, "logits", at.images.numpy(), tmp_path / "net.onnx")
    assert found.cosine_min > 0.99999
    assert b"kd2edge" not in (tmp_path / "net.onnx").read_bytes()  # no stack traces, no paths of this machine


@pytest.mark.parametrize("width", [16, 24])
def test_sim_kd_refuses_a_teacher_with_more_than_pooling_behind_its_map(width: int) -> None:
    """What it does between map and classifier would not ship, whether or not the widths happen to fit."""
    with pytest.raises(UserError, match="nothing but average pooling"):
        sim_kd(foreign_teacher(torch.nn.Linear(16, width), width=width))


def test_sim_kd_takes_a_layer_behind_the_map_that_changes_nothing() -> None:
    made = sim_kd(foreign_teacher(torch.nn.Dropout()))
    assert made.deployable()(batch().images).logits.shape == (8, SHAPE.classes)


def test_sim_kd_refuses_a_teachers_kernel_larger_than_the_students_map_before_training() -> None:
    teacher = net.build(NetSpec.model_validate({**tiny.net(), "neck": "gdc"}), SHAPE)
    with pytest.raises(UserError, match=r"do not fit(.|\n)*smaller stride"):
        sim_kd(net.freeze(teacher), {"model": {"name": "mobilefacenet"}})
