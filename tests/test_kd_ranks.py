"""Two processes that train together make what one makes of the same batches, and leave one run behind."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import spawn

from kd2edge.data import open_source
from kd2edge.errors import UserError
from kd2edge.kd import heads, net
from kd2edge.kd.crd import CRD
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.ranks import Ranks, join
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.run import Run
from kd2edge.schema import NetSpec, Train
from kd2edge.verbs.distill import directory, distill_seeds
from kd2edge.verbs.ship import ship
from tests import tiny
from tests.test_kd_train import Interrupting

pytestmark = pytest.mark.kd

WITHOUT_BATCH_NORM = '''"""A net that sees each image alone."""

from torch import Tensor, nn

from kd2edge.kd.net import Backbone, Shape


class Alone(Backbone):
    stride = 2

    def __init__(self, config: Backbone.Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.width = 6
        self.layers = nn.Sequential(nn.Conv2d(shape.channels, 6, 3, 2, 1), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
'''


def declared(folder: Path) -> Path:
    """A recipe of KD whose nets have no batch norm and whose images are not augmented: ranks only change sums."""
    (folder / "alone.py").write_text(WITHOUT_BATCH_NORM)
    spec = {"model": {"name": str(folder / "alone.py")}}
    train = {"epochs": 2, "batch": 8, "lr": 0.05, "precision": "fp32", "clip": 1.0}
    method = {"name": "kd", "embedding_l2": 1.0}
    tree: dict[str, Any] = tiny.recipe(tiny.image_folder(folder / "images"), method, train=train)
    tree |= {"teacher": {**spec, "train": train}, "student": spec}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return folder / "recipe.yaml"


def distilled(
    recipe: Path, out: Path, *, ranks: int, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "--"]
    start = torchrun if ranks > 1 else ["-m"]
    command = [sys.executable, *start, "kd2edge", "distill", str(recipe), "--run", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_ranks_make_the_net_that_one_makes(tmp_path: Path) -> None:
    recipe = declared(tmp_path)
    for ranks in (1, 2):
        done = distilled(recipe, tmp_path / f"by-{ranks}", ranks=ranks)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / f"by-{ranks}" / "fp32.safetensors") for ranks in (1, 2))
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-4, atol=1e-5)
    logs = [(tmp_path / f"by-{ranks}" / "log" / "fp32.jsonl").read_text().splitlines() for ranks in (1, 2)]
    assert len(logs[0]) == len(logs[1]) == 2
    names = [e["role"] for e in Run(tmp_path / "by-2").events() if e["event"] == "artifact"]
    assert len(names) == len(set(names)) * 2  # weights and ONNX of each role, once


def test_two_ranks_refuse_what_they_cannot_share(tmp_path: Path) -> None:
    done = distilled(declared(tmp_path), tmp_path / "run", ranks=2, options=("--set", "train.batch=7"))
    assert done.returncode != 0
    assert "does not fall into 2 equal parts" in done.stderr
    head = heads.Cosine(4, 8, 1.0, 0.0)
    head.sample = 0.5
    with pytest.raises(UserError, match=r"head\.sample"):
        Ranks(0, 2).require(8, nn.ModuleList([head]))
    kinds = [CRD(CRD.Config(negatives=kind), 4, 4) for kind in ("batch", "queue")]
    Ranks(0, 2).require(8, kinds[0])
    with pytest.raises(UserError, match="CRD's queue"):
        Ranks(0, 2).require(8, nn.ModuleList(kinds))


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


def on_a_rank(rank: int, folder: Path) -> None:
    """Uninterrupted, and stopped by rank 0 in the teacher's second epoch, and in the student's first."""
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "", "MASTER_PORT": ""}
    meeting, minute = f"file://{folder}/meet", timedelta(minutes=1)
    torch.distributed.init_process_group("gloo", meeting, minute, rank=rank, world_size=2)
    found = {"straight": taught(folder / "images", folder / "straight", Silent())}
    for steps in (6, 5):  # of eight a stage
        with pytest.raises(KeyboardInterrupt):
            taught(folder / "images", folder / "resumed", Silent() if rank else Interrupting(steps))
        torch.distributed.barrier()  # as a process that has ended has written what it wrote
    found["resumed"] = taught(folder / "images", folder / "resumed", Silent())
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_batch_norms_are_the_same_on_all_ranks_and_a_stopped_training_goes_on_to_the_same_nets(tmp_path: Path) -> None:
    tiny.image_folder(tmp_path / "images", per_class=12, splits=("train",))
    spawn(on_a_rank, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    teacher, student = found[0]["straight"]
    for made in (found[1]["straight"], found[0]["resumed"], found[1]["resumed"]):
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


def test_the_parts_of_all_ranks_are_the_batch() -> None:
    batch = np.arange(12)
    parts = np.concatenate([Ranks(number, 3).part(batch) for number in range(3)])
    assert sorted(parts.tolist()) == batch.tolist()
