"""One step of optimisation: its images made ready, losses and gradients in so many parts, and the weights moved.

Nothing here waits for a GPU. A part's terms weigh as many images as it has, so that their sum is the mean over the
batch (gradient accumulation); mixed precision is torch's autocast, with a scaled loss for float16 (arXiv 1710.03740).
"""

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from kd2edge import schema
from kd2edge.errors import Diverged, UserError
from kd2edge.kd import compiled, devices, shards
from kd2edge.kd.augment import Preparation, draw
from kd2edge.kd.average import Average
from kd2edge.kd.method import Batch, Stage
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.schedule import load, optimizer
from kd2edge.kd.spans import Spans
from kd2edge.kd.tally import HINT
from kd2edge.kd.way import Way


@dataclass(frozen=True)
class Outcome:
    """A step's terms [T] by name, float32 on the device, the mean over all processes.

    `embedding` [N, d] is the teacher's, where the losses asked it and nothing was remembered.
    """

    names: Sequence[str]
    terms: Tensor
    embedding: Tensor | None


class Step:
    """Moves a stage's learner by one batch a call, and holds all that changes by it."""

    def __init__(
        self, stage: Stage, plan: schema.Train, how: schema.Preprocessing, way: Way, ranks: Ranks, spans: Spans
    ) -> None:
        """The learner must be where it will train. Raises `UserError` where `plan.accumulate` makes too small parts."""
        self.learner, self.plan, self.way, self.ranks, self.spans = stage.learner, plan, way, ranks, spans
        self.parallel = ranks.parallel(stage.learner, stage.losses)
        self.optimizer = optimizer(stage.learner, plan)
        self.scaler = torch.amp.GradScaler(way.device.type, enabled=way.precision == "fp16")
        self.average = None if plan.ema is None else Average(stage.learner, plan.ema)
        self._prepare = Preparation(plan.augment, how, way.device)
        self._parts = _cut(parts(way.batch, ranks, plan.accumulate), way.batch)
        self._chance = torch.Generator()

    def __call__(
        self, images: Tensor, labels: Tensor, entropy: Sequence[int], rate: float, known: Tensor | None = None
    ) -> Outcome:
        """One step at a learning rate, on this process's share of a batch: uint8 [N, H, W, C] and int64 [N].

        All chance in it comes from `entropy`, the same on every process. `known` are the teacher's embeddings [N, d] of
        these images, where they are remembered.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for number, (here, places) in enumerate(self._parts):
            ready = self._ready(images[here], entropy, places)
            given = (ready, labels[here], None if known is None else known[here])
            self._seed(entropy, number)
            last = number == len(self._parts) - 1
            with nullcontext() if last else self.parallel.quiet():
                found.append(self._gradients(*given, weight=len(ready) / len(images)))
        self._move()
        return self._all(found)

    def _ready(self, images: Tensor, entropy: Sequence[int], places: Tensor | None) -> Tensor:
        with self.spans.of("augment"):
            generator = self._chance.manual_seed(zlib.crc32(repr(list(entropy)).encode()))
            return self._prepare(images, draw(self.plan.augment, self.way.batch, generator, places))

    def _seed(self, entropy: Sequence[int], part: int) -> None:
        """Other chances within the nets (dropout, sampled classes) for every process and part, and than images have."""
        seed = entropy[0] ^ zlib.crc32(repr([*entropy, self.ranks.number, part]).encode())
        torch.default_generator.manual_seed(seed)  # what torch.manual_seed does besides takes a hundred times as long
        if self.way.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _gradients(self, images: Tensor, labels: Tensor, known: Tensor | None, weight: float) -> Outcome:
        kept: list[Tensor] = []
        batch = Batch(images, labels, known, None if known is not None else kept.append)
        compiled.begin_step(self.way.mode)
        with self.spans.of("loss"), devices.autocast(self.way.device, self.way.precision):
            losses = self.parallel(batch)
            terms = [term if weight == 1 else term * weight for term in losses.values()]
            total = torch.stack(terms).sum() if terms[1:] else terms[0]
        with self.spans.of("backward"):
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call, unused-ignore]
        told = torch.stack([term.detach() for term in terms])
        return Outcome(list(losses), told, kept[0].detach() if kept else None)

    def _move(self) -> None:
        with self.spans.of("optimizer"):
            if self.scaler.is_enabled():
                self.scaler.unscale_(self.optimizer)
            if self.plan.clip is not None:
                shards.clip(self.learner, self.plan.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update()

    def _all(self, found: list[Outcome]) -> Outcome:
        """The parts' terms added up, and their embeddings put together again."""
        if len(found) == 1:
            return Outcome(found[0].names, self.ranks.mean(found[0].terms), found[0].embedding)
        embeddings = [part.embedding for part in found if part.embedding is not None]
        terms = torch.stack([part.terms for part in found]).sum(0)
        return Outcome(found[0].names, self.ranks.mean(terms), torch.cat(embeddings) if embeddings else None)

    def require_finite(self, place: str) -> None:
        """Raise `Diverged` for weights that are not finite: the losses so far may not have shown it."""
        weights = [p.detach() for p in self.learner.parameters() if p.requires_grad]
        if not all(bool(norm.isfinite()) for norm in torch._foreach_norm(weights, torch.inf)):
            raise Diverged(f"The weights are not finite after {place}.", HINT)

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        load(self.optimizer, state["optimizer"])
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def parts(batch: int, ranks: Ranks, count: int) -> list[Tensor]:
    """Where in a batch the images of a process's parts are: int64 [n] for each.

    Raises `UserError` where a part would have fewer than two, which no batch norm can do with.
    """
    places = torch.arange(batch)[ranks.number :: ranks.count]
    if len(places) < 2 * count and count > 1:
        raise UserError(
            f"{len(places)} images of a step do not make {count} parts of two and more.",
            "set train.accumulate lower, or train.batch higher",
        )
    return list(torch.tensor_split(places, count))


def _cut(places: list[Tensor], batch: int) -> list[tuple[slice, Tensor | None]]:
    """Each part among this process's images, and in the batch: None where it is the whole."""
    ends = list(accumulate(len(part) for part in places))
    whole = len(places[0]) == batch
    return [(slice(end - len(part), end), None if whole else part) for end, part in zip(ends, places, strict=True)]
