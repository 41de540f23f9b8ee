"""One step: the same however it is split into parts and processes; float16; what must not be saved."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from kd2edge.data import InMemory
from kd2edge.errors import Diverged, UserError
from kd2edge.kd import heads
from kd2edge.kd.augment import Chances, draw
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.partial import sampled
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.spans import NONE
from kd2edge.kd.step import Step, parts
from kd2edge.kd.train import Trainer
from kd2edge.kd.way import Way
from kd2edge.progress import Silent
from kd2edge.schema import Augment, Preprocessing, Train

pytestmark = pytest.mark.kd
CPU = torch.device("cpu")
HOW = Preprocessing(size=(8, 8), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, decoder="none")
AUGMENT = {"affine": {"degrees": 10, "scale": 0.1}, "flip": True, "crop_padding": 2}
CLASSES = 4


def split(count: int = 48) -> InMemory:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, CLASSES, count)
    images = generator.integers(0, 120, (count, 8, 8, 3)) + 30 * labels[:, None, None, None]
    return InMemory(images.astype(np.uint8), labels, {}, [str(k) for k in range(CLASSES)])


def net() -> nn.Sequential:
    """Without batch statistics, so that an image's gradient does not depend on the others'."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96, CLASSES))


def trained(folder: Path, seen: list[Tensor] | None = None, **train: object) -> dict[str, Tensor]:
    made = net()

    def losses(batch: Batch) -> Losses:
        if seen is not None:
            seen.extend(batch.images)
        return {"ce": nn.functional.cross_entropy(made(batch.images).float(), batch.labels)}

    plan = {"epochs": 3, "batch": 16, "lr": 0.1, "precision": "fp32", "device": "cpu", "augment": AUGMENT, **train}
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(split(), HOW, Train.model_validate(plan), 0, folder, folder / "log.jsonl", Silent())
    trainer.run(Stage("student", made, losses))
    return made.state_dict()


def in_order(images: list[Tensor]) -> Tensor:
    """The images of each step [steps, 16, ...], whichever part showed them when."""
    steps = torch.stack(images).view(-1, 16, 3 * 8 * 8)
    return torch.stack([step[np.lexsort(step.numpy().T)] for step in steps])


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Sums in another order, after nine steps: float32 leaves five digits."""
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"clip": 0.5, "ema": 0.9, "optimizer": "adamw", "lr": 0.01}])
def test_accumulated_parts_show_the_same_images_and_make_the_same_weights(
    tmp_path: Path, options: dict[str, object]
) -> None:
    shown: list[Tensor] = []
    whole = trained(tmp_path / "1", shown, **options)
    for accumulate in (2, 3, 4):
        seen: list[Tensor] = []
        split_up = trained(tmp_path / f"{accumulate}", seen, accumulate=accumulate, **options)
        assert torch.equal(in_order(seen), in_order(shown))
        close(whole, split_up)


def on_a_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "", "MASTER_PORT": ""}
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", timedelta(minutes=1), rank=rank, world_size=2)
    seen: list[Tensor] = []
    state = trained(folder / "two", seen, accumulate=2, clip=0.5)
    torch.save((state, torch.stack(seen)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_of_two_parts_are_one_of_one(tmp_path: Path) -> None:
    spawn(on_a_rank, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    shown: list[Tensor] = []
    whole = trained(tmp_path / "one", shown, clip=0.5)
    (state, first), (same, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(state[name], same[name]) for name in state)
    both = torch.cat([shares.reshape(-1, 8, 3, 8, 8) for shares in (first, second)], 1).flatten(0, 1)
    assert torch.equal(in_order(list(both)), in_order(shown))
    close(whole, state)


def test_parts_too_small_for_a_batch_norm_are_refused(tmp_path: Path) -> None:
    assert [len(part) for part in parts(16, Ranks(1, 2), 3)] == [3, 3, 2]
    with pytest.raises(UserError, match="16 images of a step do not make 9 parts") as caught:
        trained(tmp_path, accumulate=9)
    assert "train.accumulate" in str(caught.value)


def step(learner: nn.Module, losses: Callable[[Batch], Losses], precision: str, **train: object) -> Step:
    plan = Train.model_validate({"epochs": 1, "batch": 4, "lr": 0.5, "weight_decay": 0.0, **train})
    stage = Stage("student", learner, losses)
    return Step(stage, plan, HOW, Way(4, CPU, precision, "off"), Ranks(0, 1), NONE)


def moved(made: Step, times: int) -> None:
    images, labels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4)
    for number in range(times):
        made(images, labels, [0, 0, 0, number], 0.5)


def test_chance_within_the_nets_is_not_that_of_the_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """With any seed, and 0 is the default; nor is a part's that of another."""
    weight, drawn = nn.Linear(1, 1), list[tuple[float, ...]]()

    def noted(plan: Augment, count: int, generator: torch.Generator, index: Tensor | None) -> Chances:
        drawn.append(tuple(torch.rand(4, generator=generator).tolist()))
        return draw(plan, count, generator, index)

    def losses(batch: Batch) -> Losses:
        drawn.append(tuple(torch.rand(4).tolist()))
        return {"a": weight.weight.sum()}

    monkeypatch.setattr("kd2edge.kd.step.draw", noted)
    moved(step(weight, losses, "fp32", accumulate=2), 2)
    assert len(drawn) == 8
    assert len(set(drawn)) == 6  # a step's parts share what is drawn for their images


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved(optimizer: str) -> None:
    """The very first one too, before there is any momentum. Against the same losses in float32."""
    weight, plain = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for layer in (weight, plain):
        nn.init.constant_(layer.weight, 1.0)
    made = step(weight, lambda batch: {"a": (64.0 * weight.weight.half()).float().sum()}, "fp16", optimizer=optimizer)
    moved(made, 1)  # 64 x 65536 is beyond float16
    assert weight.weight.item() == 1.0
    skipped = 1
    while made.scaler.get_scale() > 512.0:
        moved(made, 1)
        skipped += weight.weight.item() == 1.0
    assert skipped == 7  # 65536 / 2^7 x 64 = 32768 is within
    exact = step(plain, lambda batch: {"a": 64.0 * plain.weight.sum()}, "fp32", optimizer=optimizer)
    moved(made, 3)
    moved(exact, 3)
    torch.testing.assert_close(weight.weight, plain.weight, rtol=1e-6, atol=0)
    assert made.scaler.get_scale() == 512.0


def test_gradients_are_clipped_as_they_are_not_as_they_are_scaled() -> None:
    weight = nn.Linear(2, 1, bias=False)
    before = weight.weight.detach().clone()
    made = step(weight, lambda batch: {"a": 0.25 * weight.weight.half().float().sum()}, "fp16", clip=0.01)
    moved(made, 1)
    torch.testing.assert_close(torch.linalg.vector_norm(weight.weight.detach() - before), torch.tensor(0.5 * 0.01))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rows_of_a_sampled_head_are_left_alone_by_a_step_that_overflows(optimizer: str) -> None:
    head = heads.Cosine(8, 40, 1.0, 0.0, sample=0.2)
    point = nn.Parameter(torch.ones(4, 8))
    head.register_parameter("point", point)

    def losses(batch: Batch) -> Losses:
        with sampled(batch.labels, head):
            return {"a": head(point).float().square().sum() * size}

    made, size = step(head, losses, "fp16", optimizer=optimizer), 1e9
    start = head.weight.detach().clone()
    moved(made, 1)
    assert torch.equal(head.weight, start)
    size = 1.0
    moved(made, 1)
    changed = (head.weight != start).any(1)
    assert changed[:4].all()
    assert changed.sum() == 8
    assert head.weight.isfinite().all()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """Of the epoch's last step: its loss was finite, its gradient not."""
    made = net()

    def losses(batch: Batch) -> Losses:
        gone = next(made.parameters()).sum()
        return {"root": (gone - gone.detach()).sqrt() if len(seen) == 2 else 0 * gone, "n": torch.tensor(len(seen))}

    seen: list[int] = []

    class Counting(Silent):
        def advance(self, steps: int = 1, **figures: float | str) -> None:
            seen.extend([1] if figures else [])

    plan = Train.model_validate({"epochs": 2, "batch": 16, "lr": 0.1, "device": "cpu"})
    trainer = Trainer(split(), HOW, plan, 0, tmp_path, tmp_path / "log.jsonl", Counting())
    with pytest.raises(Diverged, match="weights are not finite after stage student, epoch 1, step 3"):
        trainer.run(Stage("student", made, losses))
    assert not list(tmp_path.glob("*.safetensors"))
