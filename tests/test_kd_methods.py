"""The contract of the methods shelf, and each method's loss against a formula written anew in numpy."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from kd2edge import shelves
from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.kd import foreign, heads, net, to_onnx
from kd2edge.kd.method import Batch, Method
from kd2edge.kd.tasks import Task
from kd2edge.schema import Head, NetSpec, TaskName
from tests import tiny

pytestmark = pytest.mark.kd

SHAPE = net.Shape(channels=1, size=(16, 16), classes=5)
TASKS: dict[TaskName, str] = {"classification": "linear", "verification": "arcface"}


def make(name: str, task: TaskName, widths: tuple[int, int, int] = (8, 8, 16), **options: object) -> Method:
    torch.manual_seed(3)
    embedding = 12 if task == "verification" else None
    teacher = net.build(NetSpec.model_validate(tiny.net((8, 8, 16), embedding, TASKS[task])), SHAPE)
    for layer in teacher.modules():  # running statistics of an untrained net are those of no data at all
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_var.fill_(2.0)  # type: ignore[union-attr]
    if task == "classification":
        teacher.head.weight.data *= 20  # an untrained head hardly tells classes apart
    net.freeze(teacher)
    student = net.build(NetSpec.model_validate(tiny.net(widths, embedding, TASKS[task])), SHAPE)
    plugin = shelves.load(shelves.METHODS, name, Method)
    config = shelves.configure(plugin.Config, dict(options), name)
    return plugin(config, Task(task), SHAPE, student, teacher if plugin.needs_teacher else None)


def batch(seed: int = 0, count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 1, 16, 16, generator=generator), torch.arange(count) % SHAPE.classes)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("name", shelves.names(shelves.METHODS))
def test_every_method_keeps_the_contract(name: str, task: TaskName, tmp_path: Path) -> None:
    method = make(name, task)
    before = copy.deepcopy(method._teacher.state_dict()) if method._teacher else {}
    for stage in method.stages():
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
        assert torch.equal(value, method.teacher.state_dict()[key]), f"{name} changed the teacher's {key}"
    samples = batch(9, 4).images.numpy()
    reference, found = to_onnx.export(method.deployable(), method.task.output, samples, tmp_path / "net.onnx")
    assert found.cosine_min > 0.99999
    assert b"kd2edge" not in (tmp_path / "net.onnx").read_bytes()  # no stack traces, no paths of this machine
    assert run_onnx(tmp_path / "net.onnx", samples[:3]).shape == (3, reference.shape[1])


def outputs(method: Method, at: Batch) -> tuple[net.Out, net.Out]:
    with torch.no_grad():
        return method.student(at.images), method.teacher(at.images)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def divergence(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    return float(tau**2 * rel_entr(softmax(teacher / tau, 1), softmax(student / tau, 1)).sum(1).mean())


def test_kd_is_gamma_ce_plus_alpha_kl() -> None:
    method, at = make("kd", "classification", gamma=0.3, alpha=0.7, tau=2.0), batch()
    method.student.eval()
    student, teacher = outputs(method, at)
    terms = {k: v.item() for k, v in next(iter(method.stages())).losses(at).items()}
    s, t = student.logits.double().numpy(), teacher.logits.double().numpy()
    assert terms["ce"] == pytest.approx(0.3 * cross_entropy(s, at.labels.numpy()), rel=1e-5)
    assert terms["kl"] == pytest.approx(0.7 * divergence(s, t, 2.0), rel=1e-4)


@pytest.mark.parametrize("task", list(TASKS))
def test_th_kd_adds_the_frozen_teacher_head_on_the_students_embedding(task: TaskName) -> None:
    method, at = make("th_kd", task, beta=0.5), batch()
    method.student.eval()
    student, teacher = outputs(method, at)
    terms = next(iter(method.stages())).losses(at)
    z, w = student.embedding.double().numpy(), method.teacher.head.weight.detach().double().numpy()
    if task == "verification":
        through = 32 * (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    else:
        assert method.teacher.head.bias is not None
        through = z @ w.T + method.teacher.head.bias.detach().double().numpy()
    expected = 0.5 * divergence(through, teacher.logits.double().numpy(), 4.0)
    assert terms["kl_th"].item() == pytest.approx(expected, rel=1e-5)
    assert not method.teacher.head.weight.requires_grad


def test_th_kd_bridges_unequal_widths_in_training_only() -> None:
    method = make("th_kd", "classification", widths=(8, 8, 20))
    stage = next(iter(method.stages()))
    stage.losses(batch())["kl_th"].backward()  # type: ignore[no-untyped-call]
    assert any("adapter" in name for name, _ in stage.learner.named_parameters())
    assert method.deployable() is method.student


def test_sim_kd_is_the_mean_squared_error_of_feature_maps() -> None:
    method, at = make("sim_kd", "classification", factor=4), batch()
    stage = next(iter(method.stages()))
    stage.learner.eval()
    with torch.no_grad():
        projected, target = stage.learner(at.images).double().numpy(), method.teacher(at.images).fmap.double().numpy()
        assert stage.losses(at)["mse"].item() == pytest.approx(((projected - target) ** 2).mean(), rel=1e-5)


def test_sim_kd_ships_trunk_projector_and_the_teachers_neck() -> None:
    method = make("sim_kd", "verification", widths=(8, 8, 20), factor=2)
    shipped = method.deployable()
    assert shipped.neck is method.teacher.neck
    hidden = 16 // 2
    expected = 20 * hidden + 9 * hidden**2 + hidden * 16 + 4 * hidden + 2 * 16  # methods.md: the paper's projector
    projector = method.deployable().backbone.projector
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
    plugin = shelves.load(shelves.METHODS, "sim_kd", Method)
    made = net.build(NetSpec.model_validate(student or tiny.net()), SHAPE)
    return plugin(plugin.Config(), Task("classification"), SHAPE, made, teacher)


@pytest.mark.parametrize("embedding", [None, 12])
def test_sim_kd_pools_for_a_teacher_that_pools_by_its_own_means(embedding: int | None, tmp_path: Path) -> None:
    teacher, at = foreign_teacher(embedding=embedding), batch()
    method = sim_kd(teacher)
    shipped, taught = method.deployable(), teacher(at.images)
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
    method = sim_kd(foreign_teacher(torch.nn.Dropout()))
    assert method.deployable()(batch().images).logits.shape == (8, SHAPE.classes)


def test_sim_kd_refuses_a_teachers_kernel_larger_than_the_students_map_before_training() -> None:
    teacher = net.build(NetSpec.model_validate({**tiny.net(), "neck": "gdc"}), SHAPE)
    with pytest.raises(UserError, match=r"do not fit(.|\n)*smaller stride"):
        sim_kd(net.freeze(teacher), {"model": {"name": "mobilefacenet"}})
