"""SimKD's losses against numpy, what they leave alone, and the graph that ships."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from scipy.special import log_softmax, rel_entr, softmax

from kd2edge.kd import heads, net, to_onnx
from kd2edge.schema import TaskName
from tests.lessons import HEADS, SHAPE, batch, sim_kd

pytestmark = pytest.mark.kd


def test_by_default_the_loss_is_the_papers_alone() -> None:
    stage = next(iter(sim_kd().stages()))
    assert list(stage.losses(batch())) == ["mse"]
    assert stage.taught_by is None
    assert stage.minimises is None


@pytest.mark.parametrize("task", list(HEADS))
def test_cross_entropy_and_kl_are_of_the_logits_that_ship(task: TaskName) -> None:
    method, at = sim_kd(task=task, gamma=0.3, alpha=0.7, tau=2.0), batch()
    method.trunk.eval()
    with torch.no_grad():
        terms = {name: value.item() for name, value in method.losses(at).items()}
        s, t = (made(at.images).logits.double().numpy() for made in (method.deployable().eval(), method.teacher))
    labels, rows = at.labels.numpy(), np.arange(len(at.labels))
    divergence = 4 * rel_entr(softmax(t / 2, 1), softmax(s / 2, 1)).sum(1).mean()
    if task == "verification":  # ArcFace of scale 32 and its margin of the recipe's default
        head = method.teacher.head
        assert isinstance(head, heads.ArcFace)
        margined = s.copy()
        margined[rows, labels] = head.scale * np.cos(np.arccos(s[rows, labels] / head.scale) + head.margin)
        assert (s[rows, labels] / head.scale > -np.cos(head.margin)).all()
        s = margined
    assert terms["ce"] == pytest.approx(-0.3 * log_softmax(s, axis=1)[rows, labels].mean(), rel=1e-4)
    assert terms["kl"] == pytest.approx(0.7 * divergence, rel=1e-4)


@pytest.mark.parametrize(("weight", "term"), [("gamma", "ce"), ("alpha", "kl")])
def test_a_term_without_weight_is_left_out(weight: str, term: str) -> None:
    assert list(sim_kd(**{weight: 0.5}).losses(batch())) == ["mse", term]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", list(HEADS))
def test_training_by_labels_leaves_the_teacher_as_it_was(task: TaskName) -> None:
    method = sim_kd(task=task, gamma=1.0, alpha=1.0)
    before, stage = copy.deepcopy(method.teacher.state_dict()), next(iter(method.stages()))
    stage.learner.train()
    optimizer = torch.optim.SGD(stage.learner.parameters(), lr=0.1)
    for seed in range(2):
        torch.stack(list(stage.losses(batch(seed)).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(parameter.grad is not None for parameter in stage.learner.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())


class Strided(torch.nn.Module):
    """A backbone of one convolution: a map of (16 / rows) × (16 / columns)."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 6, 3, stride=(rows, columns), padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.convolution(images)
        return out


def strided(rows: int, columns: int) -> net.Net:
    torch.manual_seed(rows)
    gap = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return net.Net(Strided(rows, columns), gap, heads.Linear(6, SHAPE.classes))


def halved(maps: np.ndarray, axis: int) -> np.ndarray:
    """Neighbours along an axis averaged."""
    pairs = np.moveaxis(maps, axis, -1)
    mean: np.ndarray = np.moveaxis((pairs[..., 0::2] + pairs[..., 1::2]) / 2, -1, axis)
    return mean


@pytest.mark.parametrize(
    ("student", "teacher", "pooled", "target_pooled"),
    [
        ((2, 2), (4, 4), (2, 3), ()),
        ((4, 4), (2, 2), (), (2, 3)),
        ((2, 4), (4, 2), (2,), (3,)),
        ((4, 4), (4, 4), (), ()),
    ],
    ids=["student larger", "teacher larger", "each in one direction", "alike"],
)
def test_the_larger_map_is_average_pooled_to_the_smaller(
    student: tuple[int, int], teacher: tuple[int, int], pooled: tuple[int, ...], target_pooled: tuple[int, ...]
) -> None:
    method, at = sim_kd(strided(*student), net.freeze(strided(*teacher)), relu=False), batch()
    method.trunk.eval()
    with torch.no_grad():
        maps, target = (made(at.images).numpy() for made in (method.student.backbone, method.teacher.backbone))
        for axis in pooled:
            maps = halved(maps, axis)
        for axis in target_pooled:
            target = halved(target, axis)
        projected = method.trunk.projector(torch.from_numpy(maps)).numpy()
        assert method.losses(at)["mse"].item() == pytest.approx(((projected - target) ** 2).mean(), rel=1e-4)
    assert method.size == target.shape[2:]


def test_without_relu_the_projected_map_may_be_negative() -> None:
    images = batch().images
    assert sim_kd(relu=True).trunk.eval()(images).min() >= 0
    assert sim_kd(relu=False).trunk.eval()(images).min() < 0


def test_the_exported_student_holds_the_teachers_classifier_bit_for_bit(tmp_path: Path) -> None:
    method, path = sim_kd(factor=4), tmp_path / "net.onnx"
    _, parity = to_onnx.export(method.deployable(), "logits", batch(1, 4).images.numpy(), path)
    assert parity.cosine_min > 0.99999
    held = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    head = method.teacher.head
    assert head.bias is not None
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    assert any(np.array_equal(weight, array) or np.array_equal(weight.T, array) for array in held)
    assert any(np.array_equal(bias, array) for array in held)
