"""What SimKD ships, counted, against the cost formula of the literature; and the budgets that choose a projector."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn.modules.batchnorm import _BatchNorm

from kd2edge import shelves
from kd2edge.errors import Faults, UserError
from kd2edge.graph import cost
from kd2edge.graph.load import load_model
from kd2edge.kd import foreign, heads, net, to_onnx
from kd2edge.kd.methods.sim_kd import SimKD
from kd2edge.kd.projector import Projector, shipped_parameters
from kd2edge.schema import TaskName
from tests.lessons import HEADS, SHAPE, TINY, batch, by_formula, model, sim_kd, spec

pytestmark = pytest.mark.kd

CIFAR = net.Shape(channels=3, size=(32, 32), classes=100)
IMAGENET_SMALL = net.Shape(channels=3, size=(64, 64), classes=1000)


# Student, its parameters and the teacher's as the literature counts them, and the projector's for r = 1, 2, 4, 8.
CIFAR_PAIRS = {
    ("8x4", "32x4"): (1_233_540, 7_433_860, (722_432, 214_016, 70_400, 26_240)),
    ("38", "38x2"): (None, None, (172_800, 49_664, 15_744, 5_696)),
}


@pytest.fixture(scope="module")
def teachers() -> dict[str, net.Net]:
    return {arch: net.freeze(net.build(model("resnet_cifar", arch), CIFAR)) for arch in ("32x4", "38x2")}


@pytest.mark.parametrize("place", range(4), ids=lambda place: f"r{2**place}")
@pytest.mark.parametrize("pair", CIFAR_PAIRS, ids="-".join)
def test_the_account_holds_the_published_costs(pair: tuple[str, str], place: int, teachers: dict[str, net.Net]) -> None:
    student, teacher, published = CIFAR_PAIRS[pair]
    account = sim_kd(model("resnet_cifar", pair[0]), teachers[pair[1]], shape=CIFAR, factor=2**place).account()
    assert account["projector"]["factor"] == 2**place
    assert account["projector"]["parameters"] == published[place]
    assert account["teacher_parameters"] == sum(p.numel() for p in teachers[pair[1]].parameters())
    assert account["share_of_teacher"] == account["parameters"] / account["teacher_parameters"]
    if student is not None:  # heads are alike, so what ships is the student and the projector
        assert account["parameters"] == student + published[place]
        assert account["teacher_parameters"] == teacher
    assert "warning" not in account
    assert json.loads(json.dumps(account)) == account


# Widths of last maps: vgg8, ShuffleNetV1 and V2 x1.5 as students of resnet32x4, vgg8 of vgg13.
WIDTHS = {
    (512, 256): (787_968, 246_784, 86_784, 34_432),
    (960, 256): (902_656, 304_128, 115_456, 48_768),
    (704, 256): (837_120, 271_360, 99_072, 40_576),
    (512, 512): (2_887_000, 854_016, 280_064, 103_680),
}


@pytest.mark.parametrize(("widths", "place"), [(widths, place) for widths in WIDTHS for place in range(4)])
def test_a_projectors_size_is_the_published_one(widths: tuple[int, int], place: int) -> None:
    projector = Projector(*widths, 2**place, relu=True, depthwise=False)
    counted, published = sum(p.numel() for p in projector.parameters()), WIDTHS[widths][place]
    assert counted == by_formula(*widths, 2**place)
    if published is not None:
        assert counted == pytest.approx(published, rel=1e-3 if published > 1e6 else 0)


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_a_projector_as_large_as_the_trunk_is_warned_of_and_a_budget_avoids_it() -> None:
    """ResNet-18 from ResNet-50: at the paper's r = 2 the student is as large as its teacher (99.0 %)."""
    teacher = net.freeze(net.build(model("torchvision", "resnet50"), IMAGENET_SMALL))
    student = net.build(model("torchvision", "resnet18"), IMAGENET_SMALL)
    account = sim_kd(student, teacher, shape=IMAGENET_SMALL).account()
    assert account["projector"]["parameters"] == by_formula(512, 2048, 2)
    assert round(account["parameters"] / 1e6, 2) == 25.29
    assert round(account["share_of_teacher"], 3) == 0.990
    assert "99%" in account["warning"]
    assert "raise method.factor" in account["warning"]
    within = sim_kd(student, teacher, shape=IMAGENET_SMALL, max_share=0.6).account()
    assert within["projector"]["factor"] == 8
    assert round(within["share_of_teacher"], 3) == 0.566
    assert "warning" not in within


def test_depthwise_makes_the_projector_smaller() -> None:
    account = sim_kd(factor=2, depthwise=True).account()
    assert account["projector"]["parameters"] == 16 * 8 + 9 * 8 + 8 * 16 + 4 * 8 + 2 * 16


@pytest.mark.parametrize("depthwise", [False, True])
def test_macs_are_those_of_the_exported_projector(depthwise: bool, tmp_path: Path) -> None:
    method, samples = sim_kd(depthwise=depthwise), batch(1, 2).images.numpy()
    to_onnx.export(method.deployable(), "logits", samples, tmp_path / "shipped.onnx")
    to_onnx.export(net.Net(*method.student.children()), "logits", samples, tmp_path / "student.onnx")  # type: ignore[arg-type]
    shipped, student = (cost.macs(load_model(tmp_path / f"{name}.onnx")) for name in ("shipped", "student"))
    assert method.account()["projector"]["macs"] == shipped - student


@pytest.mark.parametrize("task", list(HEADS))
def test_only_what_is_exported_counts(task: TaskName, tmp_path: Path) -> None:
    """A norm's scale is folded into the convolution before it and its bias becomes the convolution's."""
    method, path = sim_kd(task=task), tmp_path / "net.onnx"
    norms = [layer for layer in method.deployable().modules() if isinstance(layer, _BatchNorm)]
    for norm in norms:
        torch.nn.init.uniform_(norm.bias)  # the exporter keeps equal constants once, and untrained biases are all 0
    to_onnx.export(method.deployable(), method.task.output, batch(1, 4).images.numpy(), path)
    folded = sum(norm.num_features for norm in norms)
    assert method.account()["parameters"] == cost.parameters(load_model(path)) + folded


def test_layers_behind_the_map_are_not_counted() -> None:
    trunk = (torch.nn.Conv2d(1, 6, 3, stride=4, padding=1), torch.nn.ReLU())
    tail = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 24), torch.nn.Linear(24, 5))
    backbone = foreign.ForeignBackbone(shelves.PluginConfig(), SHAPE, torch.nn.Sequential(*trunk, *tail))
    student = net.Net(backbone, net.Neck("gap", backbone, SHAPE.size, None), heads.Linear(24, 5))
    method = sim_kd(student)
    assert method.account()["parameters"] == (9 + 1) * 6 + by_formula(6, 16, 2) + 16 * 5 + 5
    assert shipped_parameters(student, "logits", SHAPE) == (9 + 1) * 6 + (6 + 1) * 24 + (24 + 1) * 5


def by_size(made: net.Net) -> float:
    """A machine on which time goes by parameters, and whose measuring is as random as any."""
    torch.rand(1)
    return 0.001 * sum(p.numel() for p in made.parameters())


def plain_parameters() -> int:
    return sum(p.numel() for p in net.build(spec(TINY), SHAPE).parameters())


def test_a_share_takes_the_largest_projector_within_it() -> None:
    """Student and teacher are the same net here, so the share is 1 + P / its parameters."""
    for factor in (1, 4, 32):
        limit = 1 + by_formula(16, 16, min(factor, 16)) / plain_parameters()
        assert sim_kd(max_share=limit + 1e-9).factor == min(factor, 16)
        if factor > 1:
            assert sim_kd(max_share=limit + 1e-9).account()["share_of_teacher"] == pytest.approx(limit)


def test_a_latency_takes_the_largest_projector_within_it() -> None:
    limit = 1 + by_formula(16, 16, 4) / plain_parameters()
    assert sim_kd(max_latency=limit + 1e-9, latency=by_size).factor == 4
    assert sim_kd(max_latency=limit - 1e-9, latency=by_size).factor == 8


def test_of_two_budgets_the_tighter_one_decides() -> None:
    wide, tight = (1 + by_formula(16, 16, factor) / plain_parameters() + 1e-9 for factor in (2, 8))
    assert sim_kd(max_share=wide, max_latency=tight, latency=by_size).factor == 8
    assert sim_kd(max_share=tight, max_latency=wide, latency=by_size).factor == 8


@pytest.mark.parametrize("budget", ["max_share", "max_latency"])
def test_a_budget_that_no_projector_keeps_names_the_smallest_within_reach(budget: str) -> None:
    least = 1 + by_formula(16, 16, 16) / plain_parameters()
    with pytest.raises(UserError, match=rf"factor 32, comes to {budget} {least:.3g}"):
        sim_kd(latency=by_size, **{budget: 0.9})  # type: ignore[arg-type]


def test_a_latency_budget_needs_something_to_measure_with() -> None:
    with pytest.raises(UserError, match="measure latency"):
        sim_kd(max_latency=1.5)


def test_a_chosen_factor_trains_the_very_net_that_a_given_one_does() -> None:
    limit = 1 + by_formula(16, 16, 4) / plain_parameters() + 1e-9
    given, chosen = sim_kd(factor=4), sim_kd(max_share=limit, max_latency=limit, latency=by_size)
    assert chosen.trunk.state_dict().keys() == given.trunk.state_dict().keys()
    for name, value in given.trunk.state_dict().items():
        assert torch.equal(value, chosen.trunk.state_dict()[name])
    assert all(module.training for module in chosen.trunk.modules())
    assert not any(module.training for module in chosen.teacher.modules())


def test_factor_and_budgets_exclude_each_other() -> None:
    with pytest.raises(Faults, match=r"factor: .*either a factor or a budget.*max_share and max_latency is set, got 2"):
        sim_kd(factor=2, max_share=0.5, max_latency=2)
    assert SimKD.Config().factor == 2
    assert SimKD.Config(max_share=0.5).factor is None
    with pytest.raises(ValidationError):
        SimKD.Config(factor=0)


def test_latencies_are_accounted_for_where_they_can_be_measured() -> None:
    method = sim_kd(factor=2, latency=by_size)
    plain = 0.001 * plain_parameters()
    latencies = method.account()["latency_ms"]
    assert latencies == pytest.approx({"deployed": plain + 0.001 * by_formula(16, 16, 2), "student": plain})
    assert "latency_ms" not in sim_kd(factor=2).account()


def test_the_warning_names_the_budget_where_one_chose_the_factor() -> None:
    assert "lower the budget" in sim_kd(max_share=2.0).account()["warning"]
