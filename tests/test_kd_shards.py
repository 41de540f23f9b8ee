"""Heads split over processes train, resume, finish and ship as whole heads in one process do."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd2edge import schema
from kd2edge.errors import UserError
from kd2edge.kd import checkpoint, heads, net, shards
from kd2edge.kd.method import Lesson, Method, make
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.schema import Plugin, Train
from tests import processes, tiny
from tests.test_kd_train import Interrupting

pytestmark = pytest.mark.kd

CLASSES = 11  # 5 and 6
CASES: dict[str, dict[str, Any]] = {
    "plain": {"method": {"name": "plain"}, "clip": 0.5, "accumulate": 2},
    "kd": {"method": {"name": "kd", "embedding_l2": 1.0}, "ema": 0.8},
    "linear": {"method": {"name": "kd"}, "head": "linear", "optimizer": "adamw", "lr": 0.01, "clip": 0.2},
    "code": {"method": {"name": "th_kd", "embedding_l2": 0.5}},
    "paper": {"method": {"name": "th_kd", "form": "paper"}, "head": "cosface"},
    "mixed": {"method": {"name": "th_kd", "form": "paper", "alpha_th": 0.4}},
}


def learning(case: dict[str, Any], folder: Path, ranks: Ranks) -> Method:
    """A method on nets without batch norms, the same on all ranks, whose heads are split where there are several."""
    head = {"name": case.get("head", "arcface"), "scale": 8.0, "sample": case.get("sample", 1.0)}
    section = {"model": {"name": str(folder / "alone.py")}, "embedding": None, "head": {**head, "sharded": True}}
    shape = net.Shape(3, (8, 8), CLASSES)
    torch.manual_seed(3)
    teacher = net.freeze(net.build(schema.NetSpec.model_validate(section), shape))
    lesson = Lesson(Task("verification"), shape, schema.NetSpec.model_validate(section), teacher, seed=5)
    for made in (teacher, lesson.student):
        made.head.weight.data *= 30
        shards.split(made.head, ranks)
    return make(Plugin.model_validate(case["method"]), lesson)


def trained(
    name: str, case: dict[str, Any], ranks: Ranks, out: Path, stop: int = 0
) -> tuple[dict[str, Tensor], Method]:
    """The finished stage's file after two epochs of three steps; stopped after so many of them, where asked."""
    options = {key: value for key, value in case.items() if key not in ("method", "head", "sample")}
    plan = {"epochs": 2, "batch": 16, "lr": 0.05, "precision": "fp32", "augment": {"flip": True}, **options}
    method, folder = learning(case, out.parent, ranks), out / name
    folder.mkdir(parents=True, exist_ok=True)
    progress = Interrupting(stop) if stop and ranks.first else Silent()
    how, log = processes.HOW, folder / "log.jsonl"
    trainer = Trainer(processes.split(), how, Train.model_validate(plan), 0, folder, log, progress)
    (stage,) = method.stages()
    trainer.run(stage)
    found: dict[str, Tensor] = checkpoint.read(folder / "student.safetensors")["learner"]
    return found, method


def on_a_rank(ranks: Ranks, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        states, method = trained(name, case, ranks, folder / "split")
        shipped = shards.whole(method.deployable(), ranks)
        found[name] = {"state": states, "own": method.student.head.weight.shape, "shipped": shipped.state_dict()}
    for name, case in (("kd", CASES["kd"]), ("sampled", {**CASES["plain"], "sample": 0.6})):
        found[f"{name} straight"], _ = trained(name, case, ranks, folder / "straight")
        with pytest.raises(KeyboardInterrupt):
            trained(name, case, ranks, folder / "resumed", stop=4)
        ranks.wait()
        found[f"{name} files"] = sorted(path.name for path in (folder / "resumed" / name).glob("*.safetensors"))
        if ranks.first:
            shutil.copytree(folder / "resumed" / name, folder / "stopped" / name)
        ranks.wait()
        found[f"{name} resumed"], _ = trained(name, case, ranks, folder / "resumed")
        found[f"{name} left"] = sorted(path.name for path in (folder / "resumed" / name).glob("*.safetensors"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    (folder / "alone.py").write_text(processes.WITHOUT_BATCH_NORM)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return processes.on_ranks(2, on_a_rank, folder)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_half_the_classes_each_train_what_one_trains(
    name: str, folder: Path, found: list[dict[str, Any]]
) -> None:
    alone, method = trained(name, CASES[name], Ranks(0, 1), folder / "alone")
    two = found[0][name]
    assert [found[rank][name]["own"][0] for rank in range(2)] == [5, 6]
    assert alone["student.head.weight" if "student.head.weight" in alone else "head.weight"].shape[0] == CLASSES
    assert list(two["state"]) == list(alone)
    for key, values in alone.items():
        torch.testing.assert_close(two["state"][key], values, rtol=1e-4, atol=1e-5)
    for key, values in method.deployable().state_dict().items():
        torch.testing.assert_close(two["shipped"][key], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["kd", "sampled"])
def test_a_stopped_training_goes_on_to_the_same_bits(name: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        straight, resumed = rank[f"{name} straight"], rank[f"{name} resumed"]
        assert [key for key, values in straight.items() if not torch.equal(values, resumed[key])] == []
        beside = "student.partial.1-1.rank-1-of-2.safetensors"
        assert rank[f"{name} files"] == [beside, "student.partial.safetensors"]
        assert rank[f"{name} left"] == ["student.safetensors"]


@pytest.mark.usefixtures("found")
def test_one_process_does_not_go_on_with_classes_that_were_split(folder: Path) -> None:
    with pytest.raises(UserError, match="split its classes over 2 processes, and goes on with 1"):
        trained("kd", CASES["kd"], Ranks(0, 1), folder / "stopped")


def recipe(**changes: Any) -> schema.Recipe:
    tree = tiny.recipe(Path("images"), {"name": "kd"})
    tree["student"]["head"] = {"name": "linear", "sharded": True}
    tree["train"] |= changes.pop("train", {})
    return schema.Recipe.model_validate(tree | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": {"name": "sim_kd"}}, "sim_kd needs all classes"),
        ({"compare": ["plain", "shared_head"]}, "shared_head needs all classes"),
        ({"train": {"precision": "fp16"}}, "fp16"),
        ({"validation": {"every": 1}}, "logits of all classes"),
    ],
)
def test_what_cannot_be_split_is_told_before_any_training(changes: dict[str, Any], told: str) -> None:
    shards.require(recipe(), Ranks(0, 2))
    shards.require(recipe(**changes), Ranks(0, 1))
    with pytest.raises(UserError, match=told):
        shards.require(recipe(**changes), Ranks(0, 2))


@pytest.mark.parametrize(("divided", "after"), [(False, 1), (True, 4)])
def test_another_number_of_processes_is_told(divided: bool, after: int, tmp_path: Path) -> None:
    head = heads.Linear(4, 6)
    if divided:
        shards.split(head, Ranks(0, 4))
    by = Steps(nn.ModuleDict({"head": head}))
    tree = {"learner": by.learner.state_dict(), "optimizer": by.optimizer.state_dict(), "average": None}
    checkpoint.write({**tree, "epoch": 1, "step": 2, "ranks": 2}, tmp_path / "partial.safetensors")
    said: list[str] = []
    if divided:
        with pytest.raises(UserError, match="split its classes over 2 processes, and goes on with 4"):
            shards.read(tmp_path / "partial.safetensors", by, Ranks(0, after), said.append)
        return
    for ranks, told in ((Ranks(0, after), 1), (Ranks(0, 2), 1)):
        assert shards.read(tmp_path / "partial.safetensors", by, ranks, said.append)["step"] == 2
        assert len(said) == told
    assert "not bit for bit" in said[0]


class Steps:
    def __init__(self, learner: nn.Module) -> None:
        self.learner = learner
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)


def test_there_are_no_more_processes_than_classes() -> None:
    with pytest.raises(UserError, match="3 classes cannot be split over 4"):
        shards.split(heads.Linear(4, 3), Ranks(0, 4))
