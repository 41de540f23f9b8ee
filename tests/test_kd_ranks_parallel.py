"""Gradients of several processes are their mean, whatever a loss reaches, in whichever parts, and after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd.method import Batch, Losses
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.sync_norm import synchronised
from tests import lessons, processes

pytestmark = pytest.mark.kd

BATCH = 12
NEAR = 2e-6  # statistics joined from parts, against those of one sum


class Toy(nn.Module):
    """Two convolutions and a classifier; a layer that no loss reaches, and one that is not trained."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.norm: nn.Module = nn.BatchNorm2d(8, momentum=0.3) if norm else nn.Identity()
        self.second, self.norms = nn.Conv2d(8, 8, 3), nn.ModuleList([nn.BatchNorm1d(8, affine=False, momentum=None)])
        self.apart, self.held = nn.Linear(4, 4), nn.Linear(8, 8).requires_grad_(False)
        self.last = nn.Linear(8, 5)

    def losses(self, batch: Batch) -> Losses:
        maps = self.second(self.norm(self.first(batch.images)).relu())
        embedding = maps.mean((2, 3))
        if isinstance(self.norm, nn.BatchNorm2d):
            embedding = self.norms[0](embedding)
        embedding = self.held(embedding)
        ce = nn.functional.cross_entropy(self.last(embedding), batch.labels)
        return {"ce": ce, "size": 0.1 * embedding.square().mean()}


def batch(step: int, ranks: Ranks) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = 2 * torch.randn(BATCH, 3, 7, 7, generator=generator) + 7  # far from zero: variances must not cancel out
    labels = torch.randint(0, 5, (BATCH,), generator=generator)
    return Batch(images[ranks.number :: ranks.count], labels[ranks.number :: ranks.count])


def trained(ranks: Ranks, steps: int = 6, norm: bool = False, parts: int = 1, again: int = 0) -> dict[str, Tensor]:
    """A net after some steps; begun anew, as a resumed process would, after `again` of them."""
    made = Toy(norm)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
    with synchronised(made, norm, ranks):
        parallel = ranks.parallel(made, made.losses)
        for step in range(steps):
            parallel = ranks.parallel(made, made.losses) if again and step == again else parallel
            optimizer.zero_grad()
            whole = batch(step, ranks)
            size = len(whole.labels) // parts
            for part in range(parts):
                piece = slice(part * size, (part + 1) * size)
                small = Batch(whole.images[piece], whole.labels[piece])
                if part < parts - 1:
                    with parallel.quiet():
                        terms = parallel(small)
                        (sum(terms.values()) / parts).backward()  # type: ignore[union-attr]
                else:
                    (sum(parallel(small).values()) / parts).backward()  # type: ignore[union-attr]
            assert made.apart.weight.grad is None
            assert made.held.weight.grad is None
            optimizer.step()
    assert not any("forward" in vars(module) for module in made.modules())
    return made.state_dict()


def on_three(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Of three, unlike of two, the order of a sum matters."""
    found: dict[str, Any] = {
        "plain": trained(ranks),
        "parts": trained(ranks, parts=2),
        "again": trained(ranks, again=3),
    }
    found["synced"] = trained(ranks, norm=True)
    other = Toy(norm=False)
    other.last.bias.data += ranks.number * 1e-7
    with pytest.raises(UserError, match="3 processes that train together have different nets"):
        ranks.parallel(other, other.losses)
    ranks.require_same("labels", torch.arange(3).numpy())
    with pytest.raises(UserError, match="different labels"):
        ranks.require_same("labels", torch.arange(ranks.number, 3).numpy())
    with pytest.raises(UserError, match="computes in its own way"), synchronised(nn.ModuleList([Own(4)]), True, ranks):
        pass
    return found


class Own(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return processes.on_ranks(3, on_three, tmp_path_factory.mktemp("three"))


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert [name for name, values in wanted.items() if not torch.equal(values, found[name])] == []


@pytest.mark.parametrize("case", ["plain", "parts"])
def test_the_mean_of_three_processes_is_the_gradient_of_the_batch(case: str, three: list[dict[str, Any]]) -> None:
    alone = trained(Ranks(0, 1))
    for rank in three:
        assert_equal(rank[case], three[0][case])
    for name, values in alone.items():
        torch.testing.assert_close(three[0][case][name], values, rtol=1e-5, atol=1e-6)
    assert not torch.equal(alone["last.weight"], Toy(False).state_dict()["last.weight"])


def test_synchronised_batch_norms_see_the_whole_batch(three: list[dict[str, Any]]) -> None:
    alone = trained(Ranks(0, 1), norm=True)
    for rank in three:
        assert_equal(rank["synced"], three[0]["synced"])
    assert alone["norm.running_mean"].abs().max() > 1
    for name, values in alone.items():
        torch.testing.assert_close(three[0]["synced"][name], values, rtol=1e-5, atol=NEAR)


def test_a_resumed_training_adds_in_the_same_order(three: list[dict[str, Any]]) -> None:
    for rank in three:
        assert_equal(rank["again"], rank["plain"])


def test_alone_the_losses_are_the_losses() -> None:
    made = Toy(norm=True)
    parallel = Ranks(0, 1).parallel(made, made.losses)
    with parallel.quiet():
        terms = parallel(batch(0, Ranks(0, 1)))
    assert list(terms) == ["ce", "size"]
    with synchronised(made, True, Ranks(0, 1)):
        assert "forward" not in vars(made.norm)


def test_every_method_of_the_shelf_reaches_what_it_trains_or_keeps_it_without_a_gradient() -> None:
    """So DistributedDataParallel need not look for unused parameters: what is reached is so in every step.

    What is not, in use, are layers of another library's backbone behind the feature map that SimKD takes.
    """
    from kd2edge.kd.ranks import _reached

    cases: dict[str, dict[str, Any]] = {"plain": {}, "kd": {"embedding_l2": 1.0}, "th_kd": {}, "shared_head": {}}
    cases |= {"sim_kd": {}, "sh_kd": {}}
    for name, options in cases.items():
        made = lessons.make(name, "classification", **options)
        stage = next(iter(made.stages()))
        stage.learner.train()
        trained = {id(p): n for n, p in stage.learner.named_parameters() if p.requires_grad}
        reached = [_reached(stage.losses(lessons.batch(seed))) & trained.keys() for seed in range(2)]
        assert reached[0] == reached[1]
        assert [trained[i] for i in trained.keys() - reached[0]] == []
