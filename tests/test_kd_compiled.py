"""torch.compile: by a rule, in place, undone; compiled nets learn the same, again and again the same bits."""

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import compiled, heads, net, way
from kd2edge.kd.graph_net import GraphNet
from kd2edge.kd.projector import ProjectedTrunk, Projector
from kd2edge.schema import NetSpec, Train
from tests import graphs

pytestmark = pytest.mark.kd
CPU = torch.device("cpu")


class Trunk(nn.Module):
    """A convolution, BN, dropout: all that compiling could get wrong, in a net that compiles in seconds."""

    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out


def small(seed: int = 0) -> net.Net:
    torch.manual_seed(seed)
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.Net(Trunk(), neck, heads.Linear(4, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(
    student: net.Net, teacher: net.Net, mode: compiled.Mode, precision: torch.dtype, steps: int = 3
) -> list[float]:
    """Some steps towards a teacher's logits; the losses."""
    optimizer, losses = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9), []
    with compiled.nets(mode, nn.ModuleDict({"student": student}), teacher):
        for step in range(steps):
            torch.manual_seed(step)
            images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
            torch.manual_seed(step)
            compiled.begin_step(mode)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                with torch.no_grad():
                    wanted = teacher(images).logits
                loss = (student.train()(images).logits.float() - wanted.float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_the_rule() -> None:
    small_images, large = (32, 32), (224, 224)
    assert compiled.resolve("off", CPU, 10**6, large) == "off"
    assert compiled.resolve("auto", CPU, 10**6, large) == compiled.resolve("auto", CPU, 1, small_images) == "off"
    assert compiled.resolve("auto", torch.device("cuda"), compiled.ENOUGH - 1, large) == "off"
    with pytest.raises(UserError, match="graphs is for NVIDIA GPUs"):
        compiled.resolve("graphs", CPU, 1, large)


@pytest.mark.parametrize("found", [None, "InvalidCxxCompiler: none"])
def test_where_nothing_can_be_compiled_it_is_told_or_left(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    monkeypatch.setattr(compiled, "fault", lambda kind: found)
    cuda = torch.device("cuda")
    assert compiled.resolve("auto", cuda, compiled.ENOUGH, (32, 32)) == ("off" if found else "on")
    if found is None:
        assert compiled.resolve("on", CPU, 1, (32, 32)) == "on"
        assert compiled.resolve("graphs", cuda, 1, (32, 32)) == "graphs"
    else:
        with pytest.raises(UserError, match="does not work here: InvalidCxxCompiler") as caught:
            compiled.resolve("on", CPU, 1, (32, 32))
        assert "train.compile=off" in str(caught.value)


def test_cuda_graphs_do_not_accumulate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "fault", lambda kind: None)
    monkeypatch.setattr("kd2edge.kd.devices.find", lambda wanted: torch.device("cuda"))
    plan = Train.model_validate({"epochs": 1, "lr": 0.1, "compile": "graphs", "precision": "bf16"})
    assert way.resolve(plan, 8, 10, (32, 32)).mode == "graphs"
    with pytest.raises(UserError, match="earlier parts") as caught:
        way.resolve(plan.model_copy(update={"accumulate": 2}), 8, 10, (32, 32))
    assert "train.compile=on" in str(caught.value)


def test_a_machine_without_a_compiler_is_found_out() -> None:
    config: Any = importlib.import_module("torch._inductor.config")
    with config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        found = compiled.fault.__wrapped__("cpu")
    torch._dynamo.reset()
    assert "compiler" in str(found).lower()


def test_compiled_nets_learn_the_same_and_the_same_bits_each_time() -> None:
    teacher = net.freeze(small(1))
    found = []
    for mode in ("off", "on", "on"):
        student = small()
        losses = train(student, teacher, mode, torch.bfloat16)
        found.append((losses, student.state_dict()))
    (eager, _), (once, one), (again, other) = found
    assert once == again
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert once[0] != pytest.approx(0, abs=1e-4)
    assert once == pytest.approx(eager, rel=0.5)  # other dropout masks, the same task


@pytest.fixture
def graphs_made() -> Callable[[], int]:
    """How many graphs were compiled in the test so far."""
    counters: Any = importlib.import_module("torch._dynamo.utils").counters
    counters.clear()
    return lambda: int(counters["stats"]["unique_graphs"])


def test_it_is_undone_and_evaluation_is_never_compiled(graphs_made: Callable[[], int]) -> None:
    student, teacher = small(), net.freeze(small(1))
    names, images = list(student.state_dict()), torch.randn(2, 3, 8, 8)
    plain = copy.deepcopy(student).eval()(images).logits
    with compiled.nets("on", student, teacher):
        assert student.backbone._compiled_call_impl is not None
        assert list(student.state_dict()) == names
        assert torch.equal(student.eval()(images).logits, plain)
        assert graphs_made() == 0
        assert copy.deepcopy(student).backbone._compiled_call_impl is None
    assert student.backbone._compiled_call_impl is None
    with pytest.raises(ZeroDivisionError), compiled.nets("on", student):
        raise ZeroDivisionError
    assert student.neck._compiled_call_impl is None


def test_what_a_method_trains_without_a_net_is_compiled_too() -> None:
    trunk = ProjectedTrunk(Trunk(), Projector(4, 6, 2, True, False), None)
    with compiled.nets("on", trunk):
        assert trunk._compiled_call_impl is not None
        assert trunk.projector._compiled_call_impl is None
    assert trunk._compiled_call_impl is None


def test_graphs_of_onnx_files_are_left() -> None:
    graph = GraphNet(graphs.residual_net(), ["y"])
    with compiled.nets("on", graph, nn.ModuleDict({"a": graph})):
        assert graph._compiled_call_impl is None


@pytest.mark.parametrize("name", ["resnet_cifar", "mobilefacenet", "iresnet"])
def test_nets_of_the_shelf_are_one_graph_each(name: str) -> None:
    torch.manual_seed(0)
    made = net.build(NetSpec.model_validate({"model": {"name": name}}), net.Shape(3, (32, 32), 5))
    whole: Any = torch.compile(made.backbone, backend="eager", fullgraph=True, dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        whole(torch.randn(2, 3, 32, 32))
    torch._dynamo.reset()


def test_a_compiler_that_fails_within_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no room for the object file")

    student = small()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    with pytest.raises(UserError, match=r"torch\.compile failed: .*no room"), compiled.nets("on", student):
        student.train()(torch.randn(2, 3, 8, 8))
    assert student.backbone._compiled_call_impl is None
