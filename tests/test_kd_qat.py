"""Quantization-aware training: the graph as torch computes it, learned steps, the methods' losses carried over."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd2edge import shelves
from kd2edge.graph.find import initializer_holding, tensor_holding
from kd2edge.graph.load import load_model
from kd2edge.graph.parity import compare, run_onnx
from kd2edge.graph.quantize import Calibrated, calibrate_model
from kd2edge.kd import net, to_onnx
from kd2edge.kd.fake_quant import Quantizer
from kd2edge.kd.graph_net import GraphNet, put_back
from kd2edge.kd.method import Method
from kd2edge.kd.qat import Rehearsal, schedule
from kd2edge.schema import Flavour, Qat, TaskName, Train
from tests import graphs, lessons

pytestmark = pytest.mark.kd

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
    "sim_kd": ("sim_kd", "classification", {}),
}
IMAGES = np.random.default_rng(5).standard_normal((24, 1, 16, 16)).astype(np.float32)


def calibrated(path: Path, shipped: net.Net, output: str, flavour: Flavour = "tensorrt") -> Calibrated:
    to_onnx.export(copy.deepcopy(shipped), output, IMAGES[:4], path)
    return calibrate_model(load_model(path), [IMAGES], flavour, "mse")


def rehearsal(
    tmp_path: Path, name: str, task: TaskName, flavour: Flavour = "tensorrt", **options: Any
) -> tuple[Method, Rehearsal]:
    learning = lessons.make(name, task, **options)
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


@pytest.mark.parametrize("name", graphs.NETS)
def test_a_graph_in_torch_computes_what_onnxruntime_does(name: str) -> None:
    model = load_model_of(graphs.NETS[name]())
    images = graphs.images(4)
    with torch.no_grad():
        (found,) = GraphNet(model, [model.graph.output[0].name])(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), run_onnx(model, images), rtol=1e-4, atol=1e-4)


def load_model_of(model: onnx.ModelProto) -> onnx.ModelProto:
    from kd2edge.graph.fold import fold

    return fold(model)


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
    assert after.parity.cosine_mean >= 0.999
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


def test_tensors_are_found_by_what_they_hold(tmp_path: Path) -> None:
    learning = lessons.make("kd", "classification")
    path = tmp_path / "net.onnx"
    to_onnx.export(copy.deepcopy(learning.student), "logits", IMAGES[:4], path)
    with torch.no_grad():
        out = learning.student.eval()(torch.from_numpy(IMAGES[:2]))
    model = load_model(path)
    assert tensor_holding(model, IMAGES[:2], out.logits.numpy()) == "logits"
    assert tensor_holding(model, IMAGES[:2], out.logits.numpy() + 1) is None


def test_an_unknown_operator_is_named() -> None:
    from kd2edge.errors import UserError

    node = onnx.helper.make_node("Erf", ["images"], ["out"], "odd")
    given, made = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 1, 4, 4]) for n in ("images", "out")
    )
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [given], [made]))
    with pytest.raises(UserError, match="Erf"):
        GraphNet(model, ["out"])


def test_values_put_back_keep_everything_else() -> None:
    model = load_model_of(graphs.NETS[next(iter(graphs.NETS))]())
    made = GraphNet(model, [model.graph.output[0].name])
    name = made.order[0]
    changed = put_back(model, {name: torch.zeros_like(made.named()[name])})
    before, after = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, changed))
    assert not after[name].any()
    assert all(np.array_equal(before[key], after[key]) for key in before if key != name)


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
    assert (made.epochs, made.lr, made.schedule, made.warmup) == (6, pytest.approx(0.001), "cosine", 0)
    assert schedule(plan, Qat(epochs=2, lr=0.5)).lr == 0.5


def test_every_method_of_the_shelf_is_trained_in_int8_here() -> None:
    assert {name for name, _, _ in METHODS.values()} == {*shelves.names(shelves.METHODS)}
