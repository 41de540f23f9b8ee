"""Two processes that train together make what one makes of the same batches, and leave one run behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from kd2edge.data import open_source
from kd2edge.errors import UserError
from kd2edge.kd import heads, net, shards
from kd2edge.kd.crd import CRD
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.ranks import Ranks, join
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.run import Run
from kd2edge.schema import NetSpec, Train
from kd2edge.verbs.distill import directory, distill, distill_seeds
from kd2edge.verbs.ship import ship
from tests import processes, tiny
from tests.test_kd_train import Interrupting

pytestmark = pytest.mark.kd


def declared(folder: Path) -> Path:
    """A recipe of KD whose nets have no batch norm: ranks only change sums. Two of them split the classes."""
    (folder / "alone.py").write_text(processes.WITHOUT_BATCH_NORM)
    spec = {"model": {"name": str(folder / "alone.py")}}
    train = {"epochs": 2, "batch": 8, "lr": 0.05, "precision": "fp32", "clip": 1.0, "augment": {"flip": True}}
    method = {"name": "kd", "embedding_l2": 1.0}
    tree: dict[str, Any] = tiny.recipe(tiny.image_folder(folder / "images"), method, train=train)
    head = {"name": "linear", "sharded": True}
    tree |= {"teacher": {**spec, "train": train}, "student": {**spec, "head": head}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return folder / "recipe.yaml"


def taught(images: Path, out: Path, progress: Silent) -> list[dict[str, torch.Tensor]]:
    """A teacher with batch norms, trained and then frozen, and the student that learns its embeddings."""
    source = open_source({"name": "imagefolder", "path": str(images), "size": 16})
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(net.build(NetSpec.model_validate(tiny.net()), net.Shape(3, (16, 16), 3)))
    teacher, student = nets

    def supervised(batch: Batch) -> Losses:
        return {"ce": nn.functional.cross_entropy(teacher(batch.images).logits, batch.labels)}

    def imitated(batch: Batch) -> Losses:
        return {"l2": (student(batch.images).embedding - teacher(batch.images).embedding).square().mean()}

    plan = Train.model_validate({"epochs": 2, "batch": 8, "lr": 0.05, "precision": "fp32", "device": "cpu"})
    out.mkdir(exist_ok=True)
    trainer = Trainer(source.split("train"), source.preprocessing(), plan, 0, out, out / "log.jsonl", progress)
    trainer.run(Stage("teacher", teacher, supervised))
    trainer.run(Stage("student", student, imitated, frozen=(net.freeze(teacher),)))
    return [made.state_dict() for made in nets]


def on_two(ranks: Ranks, folder: Path) -> dict[str, list[dict[str, torch.Tensor]]]:
    """The recipe by two; then a training uninterrupted, and stopped by rank 0 in each of its stages."""
    distill(str(folder / "recipe.yaml"), (), folder / "by-2")
    with pytest.raises(UserError, match="does not fall into 2 equal parts"):
        distill(str(folder / "recipe.yaml"), ("teacher.train.batch=7",), folder / "refused")
    found = {"straight": taught(folder / "more", folder / "straight", Silent())}
    for steps in (6, 5):  # of eight a stage
        with pytest.raises(KeyboardInterrupt):
            taught(folder / "more", folder / "resumed", Interrupting(steps) if ranks.first else Silent())
        ranks.wait()  # as a process that has ended has written what it wrote
    found["resumed"] = taught(folder / "more", folder / "resumed", Silent())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    declared(folder)
    tiny.image_folder(folder / "more", per_class=12, splits=("train",))
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, list[dict[str, torch.Tensor]]]]:
    return processes.on_ranks(2, on_two, folder)


@pytest.mark.usefixtures("two")
def test_two_ranks_make_the_net_that_one_makes(folder: Path) -> None:
    with processes.without_onnx():
        distill(str(folder / "recipe.yaml"), (), folder / "by-1")
    one, two = (load_file(folder / f"by-{ranks}" / "fp32.safetensors") for ranks in (1, 2))
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-4, atol=1e-5)
    logs = [(folder / f"by-{ranks}" / "log" / "fp32.jsonl").read_text().splitlines() for ranks in (1, 2)]
    assert len(logs[0]) == len(logs[1]) == 2
    names = [e["role"] for e in Run(folder / "by-2").events() if e["event"] == "artifact"]
    assert len(names) == len(set(names)) * 2  # weights and ONNX of each role, once
    assert not (folder / "refused" / "teacher.safetensors").exists()


def test_several_ranks_refuse_what_they_cannot_share() -> None:
    head = heads.Cosine(4, 8, 1.0, 0.0)
    head.sample = 0.5
    with pytest.raises(UserError, match=r"head\.sample"):
        Ranks(0, 2).require(8, nn.ModuleList([head]))
    shards.split(head, Ranks(0, 2))
    Ranks(0, 2).require(8, nn.ModuleList([head]))
    kinds = [CRD(CRD.Config(negatives=kind), 4, 4) for kind in ("batch", "queue")]
    Ranks(0, 2).require(8, kinds[0])
    with pytest.raises(UserError, match="CRD's queue"):
        Ranks(0, 2).require(8, nn.ModuleList(kinds))


def test_batch_norms_are_the_same_on_all_ranks_and_a_stopped_training_goes_on_to_the_same_nets(
    two: list[dict[str, list[dict[str, torch.Tensor]]]],
) -> None:
    teacher, student = two[0]["straight"]
    for made in (two[1]["straight"], two[0]["resumed"], two[1]["resumed"]):
        for wanted, state in zip((teacher, student), made, strict=True):
            assert [name for name, values in wanted.items() if not torch.equal(values, state[name])] == []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun tells the second of two processes."""
    told = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("started")
def test_several_processes_need_one_directory_of_one_run(tmp_path: Path) -> None:
    for resume in (False, True):
        with pytest.raises(UserError, match="one directory"):
            directory("omniglot", None, resume)
    assert directory("omniglot", tmp_path, False) == tmp_path
    with pytest.raises(UserError, match="one run together"):
        distill_seeds("omniglot", (), tmp_path / "run", False, 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("started")
def test_several_processes_do_not_ship(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one ships"):
        ship("omniglot", (), tmp_path / "run")


@pytest.mark.usefixtures("started")
def test_another_launchers_world_is_not_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    assert join() == Ranks(0, 1)
    assert directory("omniglot", None, False).name.startswith("omniglot-2")


@pytest.mark.usefixtures("started")
def test_a_process_for_which_there_is_no_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="Process 2 of this machine has no GPU: there are 1") as told:
        join()
    assert "--nproc-per-node 1" in str(told.value.hint)


def test_the_parts_of_all_ranks_are_the_batch() -> None:
    batch = np.arange(12)
    parts = np.concatenate([Ranks(number, 3).part(batch) for number in range(3)])
    assert sorted(parts.tolist()) == batch.tolist()
