"""Quantization-aware training: the graph as torch computes it, learned steps, the methods' losses carried over."""

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd2edge import shelves
from kd2edge.errors import UserError
from kd2edge.graph.find import initializer_holding, tensor_holding, tensors
from kd2edge.graph.load import load_model
from kd2edge.graph.parity import compare, run_onnx
from kd2edge.graph.quantize import Calibrated, calibrate_model
from kd2edge.kd import graph_net, net, to_onnx
from kd2edge.kd.fake_quant import Quantizer
from kd2edge.kd.graph_net import OPERATORS
from kd2edge.kd.method import Method
from kd2edge.kd.qat import Rehearsal, schedule
from kd2edge.schema import Flavour, Qat, TaskName, Train
from tests import lessons, tiny

pytestmark = pytest.mark.kd

# onnxruntime's integer biases turn what is nearly at the middle between two integers to the other one.
LEAST = {"tensorrt": 0.9999, "ort-x86": 0.999}
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "ort-x86")
METHODS: dict[str, tuple[str, TaskName, dict[str, Any]]] = {
    "plain": ("plain", "classification", {}),
    "kd": ("kd", "classification", {"embedding_l2": 1.0}),
    "kd faces": ("kd", "verification", {}),
    "th_kd code": ("th_kd", "classification", {}),
    "th_kd faces": ("th_kd", "verification", {}),
    "th_kd teacher's head": ("th_kd", "classification", {"form": "paper", "alpha_th": 1.0}),
    "th_kd both heads": ("th_kd", "classification", {"form": "paper", "alpha_th": 0.5}),
    "sh_kd": ("sh_kd", "classification", {"teacher": "tuned"}),
    "shared_head": ("shared_head", "classification", {}),
    "shared_head ema, faces": ("shared_head", "verification", {"mode": "ema"}),
    "sim_kd": ("sim_kd", "classification", {}),
    "kd, cosine head": ("kd", "classification", {"head": "cosine"}),
    "th_kd both heads, arcface": ("th_kd", "classification", {"form": "paper", "alpha_th": 0.5, "head": "arcface"}),
}
IMAGES = np.random.default_rng(5).standard_normal((24, 1, 16, 16)).astype(np.float32)


def calibrated(path: Path, shipped: net.Net, output: str, flavour: Flavour = "tensorrt") -> Calibrated:
    to_onnx.export(copy.deepcopy(shipped), output, IMAGES[:4], path)
    return calibrate_model(load_model(path), [IMAGES], flavour, "mse")


def lesson(name: str, task: TaskName, head: str | None = None, embedding: int | None = None, **options: Any) -> Method:
    """A method of `lessons`, both its nets with another head, or with an embedding where the task needs none."""
    made = tiny.net
    with (
        patch.dict(lessons.HEADS, {} if head is None else {task: head}),
        patch.object(tiny, "net", lambda widths, own, kind: made(widths, embedding or own, kind)),
    ):
        return lessons.make(name, task, **options)


def rehearsal(
    tmp_path: Path, name: str, task: TaskName, flavour: Flavour = "tensorrt", **options: Any
) -> tuple[Method, Rehearsal]:
    learning = lesson(name, task, **options)
    for stage in learning.stages():
        run(stage, steps=2)
    found = calibrated(tmp_path / "net.onnx", learning.deployable(), learning.task.output, flavour)
    return learning, Rehearsal(learning, found, IMAGES)


def run(stage: Any, steps: int, lr: float = 1e-3) -> list[float]:
    """A few steps of plain gradient descent; the loss before each."""
    stage.learner.train()
    optimizer = torch.optim.SGD([p for p in stage.learner.parameters() if p.requires_grad], lr=lr)
    totals = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = torch.stack(list(stage.losses(lessons.batch()).values())).sum()
        total.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
        totals.append(float(total.detach()))
    stage.learner.eval()
    return totals


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", METHODS)
def test_every_method_trains_in_int8_and_exports_what_it_trained(tmp_path: Path, case: str, flavour: Flavour) -> None:
    name, task, options = METHODS[case]
    _, made = rehearsal(tmp_path, name, task, flavour, **options)
    before = made.finished()
    stage = made.stage("qat", Train.model_validate(lessons.PLAN))
    graph = {key: value.detach().clone() for key, value in made.graph.state_dict().items()}
    losses = run(stage, steps=3)
    after = made.finished()
    moved = [key for key, value in made.graph.state_dict().items() if not torch.equal(value, graph[key])]
    assert any(key.startswith("weights.") for key in moved)
    assert any(key.startswith("quantizers.") for key in moved)
    assert np.isfinite(losses).all()
    assert after.parity.cosine_mean >= LEAST[flavour]
    assert after.parity.argmax_agreement >= 0.95
    assert not np.array_equal(run_onnx(before.int8.model, IMAGES), run_onnx(after.int8.model, IMAGES))
    assert shape_of(before.int8.model) == shape_of(after.int8.model) == shape_of(made.calibrated.quantized().model)


def shape_of(model: onnx.ModelProto) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Every node with its edges: where Q/DQ stands, whatever its scales are."""
    return [(node.op_type, tuple(node.input), tuple(node.output)) for node in model.graph.node]


def test_before_any_step_it_is_the_calibrated_int8_itself(tmp_path: Path) -> None:
    _, made = rehearsal(tmp_path, "kd", "classification")
    ours, theirs = run_onnx(made.finished().int8.model, IMAGES), run_onnx(made.calibrated.quantized().model, IMAGES)
    assert compare(ours, theirs).cosine_min > 0.99999  # a step's logarithm rounds


def test_simkd_holds_the_teachers_part_of_the_graph(tmp_path: Path) -> None:
    learning, made = rehearsal(tmp_path, "sim_kd", "classification")
    head = learning.deployable().head.weight.detach().clone()
    run(made.stage("qat", Train.model_validate(lessons.PLAN)), steps=2)
    name, turned = initializer_holding(made.finished().int8.model, head.numpy()) or ("", False)
    assert name
    assert not turned


def test_a_head_that_is_trained_beside_the_graph_is_put_back_into_it(tmp_path: Path) -> None:
    learning, made = rehearsal(tmp_path, "kd", "classification")
    run(made.stage("qat", Train.model_validate(lessons.PLAN)), steps=2, lr=0.05)
    assert initializer_holding(made.finished().int8.model, learning.student.head.weight.detach().numpy()) is not None


def test_a_trained_cosine_head_is_put_back_with_its_rows_normalised(tmp_path: Path) -> None:
    learning, made = rehearsal(tmp_path, "plain", "classification", head="cosine")
    before = learning.student.head.weight.detach().clone()
    run(made.stage("qat", Train.model_validate(lessons.PLAN)), steps=3)
    after, model = learning.student.head.weight.detach(), made.finished().int8.model
    assert initializer_holding(model, (after / after.norm(dim=1, keepdim=True)).numpy()) is not None
    assert initializer_holding(model, (before / before.norm(dim=1, keepdim=True)).numpy()) is None


def test_a_cosine_head_of_unit_rows_is_not_taken_for_a_linear_one(tmp_path: Path) -> None:
    learning = lesson("plain", "classification", head="cosine")
    with torch.no_grad():
        learning.student.head.weight.copy_(nn.functional.normalize(learning.student.head.weight))
    found = calibrated(tmp_path / "net.onnx", learning.deployable(), "logits")
    made = Rehearsal(learning, found, IMAGES)
    with torch.no_grad():
        learning.student.head.weight.mul_(torch.arange(1.0, 6)[:, None])
    assert made.finished().parity.cosine_min > 0.99999


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """What `lessons.make("kd", "classification")` exports as, calibrated."""
    path = tmp_path_factory.mktemp("kd") / "net.onnx"
    to_onnx.export(lessons.make("kd", "classification").student, "logits", IMAGES[:4], path)
    return calibrate_model(load_model(path), [IMAGES[:16], IMAGES[16:]], "tensorrt", "auto")


def test_what_is_trained_and_not_found_in_the_graph_is_told_before_training(exported: Calibrated) -> None:
    learning = lessons.make("kd", "classification")
    trunk = learning.student.backbone
    with torch.no_grad():
        learning.student.head.weight.add_(1)
    with pytest.raises(UserError, match=r"no constant that holds head\.weight"):
        Rehearsal(learning, exported, IMAGES)
    assert learning.student.backbone is trunk


@pytest.mark.parametrize(("mix", "flavour"), [(1.0, "tensorrt"), (0.5, "ort-x86")])
def test_an_adapter_behind_what_is_trained_in_int8_ships_in_float(tmp_path: Path, mix: float, flavour: Flavour) -> None:
    """The student's embedding has 24 dimensions, the teacher's 16."""
    options = {"form": "paper", "alpha_th": mix, "widths": (8, 8, 24)}
    learning, made = rehearsal(tmp_path, "th_kd", "classification", flavour, **options)
    (beside,) = made.beside
    run(made.stage("qat", Train.model_validate(lessons.PLAN)), steps=3)
    result = made.finished()
    assert result.parity.cosine_mean >= LEAST[flavour]
    assert "beside the graph" in result.int8.kept[beside]
    assert shape_of(result.int8.model) == shape_of(made.calibrated.quantized(made.beside).model)
    assert result.int8.coverage.layers == made.calibrated.quantized().coverage.layers - 1
    (embedding,) = tensors(result.int8.model, IMAGES, made.graph.outputs[1:])
    shipped = learning.deployable().eval()
    behind = nn.Sequential(shipped.neck[-1], shipped.head) if mix == 1 else shipped.head  # type: ignore[index]
    with torch.no_grad():
        wanted = behind(torch.from_numpy(embedding)).numpy()
    np.testing.assert_allclose(run_onnx(result.int8.model, IMAGES), wanted, rtol=1e-4, atol=1e-4)


def test_an_embedding_that_ships_in_int8_is_rehearsed_so(tmp_path: Path) -> None:
    """onnxruntime quantizes what an integer layer makes for all readers: here for the classifier, which is float."""
    _, made = rehearsal(tmp_path, "plain", "classification", "ort-x86", embedding=12)
    run(made.stage("qat", Train.model_validate(lessons.PLAN)), steps=2)
    model, name = made.finished().int8.model, made.graph.outputs[1]
    (theirs,) = tensors(model, IMAGES, [f"{name}_dequantized"])
    with torch.no_grad():
        ours = made.graph(torch.from_numpy(IMAGES))[1].numpy()
    step = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == f"{name}_scale")
    for found in (theirs, ours):
        np.testing.assert_allclose(found / step, np.rint(found / step), atol=1e-3)
    assert compare(ours, theirs).cosine_mean >= 0.999


def test_figures_of_the_candidates_before_training_are_not_told_of_what_was_trained(exported: Calibrated) -> None:
    made = Rehearsal(lessons.make("kd", "classification"), exported, IMAGES)
    run(made.stage("qat", Train.model_validate(lessons.PLAN)), steps=2)
    result = made.finished().int8
    assert exported.errors
    assert (result.errors, result.held_out) == ({}, 0)
    assert result.calibrator == exported.calibrator
    assert result.ranges != exported.ranges


def test_a_graph_that_torch_computes_otherwise_is_refused_before_training(exported: Calibrated) -> None:
    learning = lessons.make("kd", "classification")
    trunk = learning.student.backbone
    wrong = {**OPERATORS, "Relu": lambda node, given: nn.functional.leaky_relu(given[0], 0.1)}
    with patch.object(graph_net, "OPERATORS", wrong), pytest.raises(UserError, match="otherwise than onnxruntime"):
        Rehearsal(learning, exported, IMAGES)
    assert learning.student.backbone is trunk


def test_tensors_are_found_by_what_they_hold(tmp_path: Path) -> None:
    learning = lessons.make("kd", "classification")
    path = tmp_path / "net.onnx"
    to_onnx.export(copy.deepcopy(learning.student), "logits", IMAGES[:4], path)
    with torch.no_grad():
        out = learning.student.eval()(torch.from_numpy(IMAGES[:2]))
    model = load_model(path)
    assert tensor_holding(model, IMAGES[:2], out.logits.numpy()) == "logits"
    assert tensor_holding(model, IMAGES[:2], out.logits.numpy() + 1) is None


@settings(max_examples=25, deadline=None)
@given(
    step=st.floats(0.01, 0.5),
    zero=st.sampled_from([(0, -128, 127), (0, 0, 255), (40, 0, 255)]),
    seed=st.integers(0, 1000),
)
def test_a_tensors_quantizer_has_the_gradients_of_its_definition(
    step: float, zero: tuple[int, int, int], seed: int
) -> None:
    point, first, last = zero
    generator = torch.Generator().manual_seed(seed)
    x = (20 * torch.randn(3, 17, generator=generator)).requires_grad_()
    weight = torch.randn(3, 17, generator=generator)
    quantizer = Quantizer(torch.tensor(step), point, first, last)
    y = quantizer(x)
    (y * weight).sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    v = x.detach().double() / step
    q = torch.clamp(torch.round(v), first - point, last - point)
    inside = (v > first - point) & (v < last - point)
    wanted = torch.where(inside, q - v, q) * weight.double()
    assert torch.allclose(y.detach().double(), q * step, rtol=1e-5, atol=1e-5)
    assert x.grad is not None
    assert torch.allclose(x.grad, weight * inside)
    assert quantizer.log_scale.grad is not None
    assert float(quantizer.log_scale.grad) == pytest.approx(float(wanted.sum()) * step, rel=1e-3, abs=1e-3)


def test_a_quantizer_computes_where_its_tensor_is() -> None:
    """On a device for which torch has no such kernel: a stand-in is asked where it got its operands."""
    with patch.object(torch, "fake_quantize_per_tensor_affine", side_effect=lambda x, *_: x) as kernel:
        Quantizer(torch.tensor(0.1), 40, 0, 255).to("meta")(torch.empty(3, device="meta"))
    assert {item.device.type for item in kernel.call_args.args if isinstance(item, torch.Tensor)} == {"meta"}


def test_a_channels_quantizer_rounds_by_its_own_step_and_learns_it() -> None:
    weight = nn.Parameter(torch.tensor([[0.31, -2.0], [3.3, 0.2]]))
    quantizer = Quantizer(torch.tensor([0.1, 1.0]), 0, -2, 2, axis=0)
    y = quantizer(weight)
    assert torch.allclose(y, torch.tensor([[0.2, -0.2], [2.0, 0.0]]))
    y.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    # Of the logarithm: s · (± the last integer outside, round(v) - v inside), which is 0.1 · (2 - 2) and 1 · (2 - 0.2).
    assert quantizer.log_scale.grad is not None
    assert torch.allclose(quantizer.log_scale.grad, torch.tensor([0.0, 1.8]))


def test_the_schedule_is_a_tenth_of_the_epochs_at_a_hundredth_of_the_rate() -> None:
    plan = Train.model_validate({"epochs": 60, "lr": 0.1, "schedule": "step", "milestones": [30], "warmup": 2})
    made = schedule(plan, Qat())
    assert (made.epochs, made.schedule, made.warmup) == (6, "cosine", 0)
    assert made.lr == pytest.approx(0.001)
    assert schedule(plan, Qat(epochs=2, lr=0.5)).lr == 0.5


def test_every_method_of_the_shelf_is_trained_in_int8_here() -> None:
    assert {name for name, _, _ in METHODS.values()} == {*shelves.names(shelves.METHODS)}
