"""Classes split over two real processes give the loss and gradients of one; sampled shards give those of the draw."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from kd2edge.kd import heads, sharded
from kd2edge.kd.losses import kl
from kd2edge.kd.method import Batch
from kd2edge.kd.partial import narrowed
from kd2edge.schema import Head
from tests import lessons

pytestmark = pytest.mark.kd

CLASSES, WIDTH, RANKS, EACH, TAU = 11, 6, 2, 4, 2.0  # 5 and 6 classes
SPECS = {
    "arcface": Head(name="arcface", scale=16),
    "cosface": Head(name="cosface", scale=128),  # logits beyond 88, whose exp is no float32
    "sampled": Head(name="arcface", scale=16, sample=0.7),
}


def whole(name: str) -> tuple[heads.Head, heads.Head, Tensor, Tensor, Tensor]:
    """Both nets' heads of all classes, both nets' embeddings of all ranks' images, and the labels."""
    torch.manual_seed(5)
    student, teacher = (heads.build(SPECS[name], WIDTH, CLASSES) for _ in range(2))
    teacher.requires_grad_(False)
    own, theirs = (torch.randn(RANKS * EACH, WIDTH) for _ in range(2))
    return student, teacher, own, theirs, torch.tensor([0, 10, 4, 5, 5, 2, 9, 0])


def part(head: heads.Head, name: str, rank: int) -> tuple[heads.Head, int]:
    """One rank's head, with its rows of the whole."""
    first, beyond = sharded.shard(CLASSES, rank, RANKS)
    shard = heads.build(SPECS[name], WIDTH, beyond - first)
    shard.weight.data = head.weight.data[first:beyond].clone()
    return shard, first


def on_a_rank(rank: int, folder: str) -> None:
    """Every case on one rank; its losses, gradients and drawn classes go into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=RANKS)
    found = {name: one_case(name, rank) for name in SPECS}
    found["ema"] = {"head": centres(slice(rank * EACH, (rank + 1) * EACH))}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def centres(mine: slice) -> Tensor:
    """The class centres of AdaDistill after one step on a part of a batch, or on that of all ranks together."""
    made, at = lessons.make("shared_head", "verification", mode="ema"), lessons.batch(count=RANKS * EACH)
    made.student.eval()
    next(iter(made.stages())).losses(Batch(at.images[mine], at.labels[mine]))
    return made.student.head.weight.detach()


def one_case(name: str, rank: int) -> dict[str, Any]:
    student, teacher, own, theirs, labels = whole(name)
    (head, first), (frozen, _) = part(student, name, rank), part(teacher, name, rank)
    frozen.requires_grad_(False)
    mine = slice(rank * EACH, (rank + 1) * EACH)
    embedding = own[mine].clone().requires_grad_()
    columns = sharded.columns(labels, first, len(head.weight))
    torch.manual_seed(rank)
    with sharded.sampled(columns, head, frozen) as columns:
        chosen = torch.arange(len(head.weight)) if head.chosen is None else head.chosen
        logits = head(sharded.gather(embedding))
        ce = sharded.cross_entropy(head, logits, columns)
        told = sharded.kl(logits, frozen(sharded.gather(theirs[mine])), TAU)
    (ce + 3 * told).backward()  # type: ignore[no-untyped-call]
    gradient = head.weight.grad
    assert gradient is not None
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    found = {"ce": ce.detach(), "kl": told.detach(), "head": dense, "embedding": embedding.grad}
    return {**found, "chosen": chosen + first}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(on_a_rank, (str(folder),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def assert_close(found: Tensor, expected: Tensor | None) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_two_ranks_are_one(name: str, ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    student, teacher, own, theirs, labels = whole(name)
    own.requires_grad_()
    chosen = torch.cat([rank[name]["chosen"] for rank in ranks])
    assert len(chosen) == (4 + 5 if name == "sampled" else CLASSES)
    assert set(labels.tolist()) <= set(chosen.tolist())
    with narrowed(chosen, student, teacher):
        logits, places = student(own), torch.searchsorted(chosen, labels)
        ce = F.cross_entropy(student.with_margin(logits, places), places)
        told = kl(logits, teacher(theirs), TAU)
    (ce + 3 * told).backward()  # type: ignore[no-untyped-call]
    assert student.weight.grad is not None
    for rank in ranks:
        assert_close(rank[name]["ce"], ce.detach())
        assert_close(rank[name]["kl"], told.detach())
    assert_close(torch.cat([rank[name]["head"] for rank in ranks]), student.weight.grad.to_dense())
    assert_close(torch.cat([rank[name]["embedding"] for rank in ranks]), own.grad)


def test_moving_centres_move_alike_on_all_ranks(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = centres(slice(None))
    for rank in ranks:
        assert_close(rank["ema"]["head"], alone)
    assert torch.equal(ranks[0]["ema"]["head"], ranks[1]["ema"]["head"])


def test_shards_cover_the_classes_once_and_evenly() -> None:
    bounds = [sharded.shard(93431, rank, 8) for rank in range(8)]
    assert [first for first, _ in bounds] == [0, *(beyond for _, beyond in bounds[:-1])]
    assert bounds[-1][1] == 93431
    assert {beyond - first for first, beyond in bounds} == {11678, 11679}


def test_a_label_is_a_column_of_one_shard() -> None:
    labels = torch.tensor([0, 4, 5, 10])
    assert sharded.columns(labels, 0, 5).tolist() == [0, 4, -1, -1]
    assert sharded.columns(labels, 5, 6).tolist() == [-1, -1, 0, 5]
