"""The losses of an epoch so far, left where they are computed until somebody asks, so that no step waits for a GPU."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kd2edge.errors import Diverged

HINT = "lower train.lr, add train.warmup or set train.clip; what was saved before is kept"


class Tally:
    """Sums by name, in float64 and in the order of the steps; "loss" is all terms together."""

    def __init__(self, place: str, sums: Mapping[str, float]) -> None:
        """`place` is the stage and epoch, for messages; `sums` what an interrupted epoch had come to, or nothing."""
        self.place, self._sums = place, dict(sums)
        self._fresh: list[tuple[int, Sequence[str], Tensor]] = []

    def add(self, step: int, names: Sequence[str], terms: Tensor) -> None:
        """Take in a step of the epoch, counted from 0: its terms [T] by name."""
        self._fresh.append((step, names, terms))

    def read(self) -> dict[str, float]:
        """The sums, for which the device is waited for. Raises `Diverged`, which names the first step and its terms."""
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return dict(self._sums)
        numbers = iter(torch.cat([terms for _, _, terms in fresh]).tolist() if fresh[1:] else fresh[0][2].tolist())
        for step, names, _ in fresh:
            found = {name: next(numbers) for name in names}
            total = sum(found.values())
            if not math.isfinite(total):
                told = ", ".join(f"{name} = {value:g}" for name, value in found.items())
                raise Diverged(f"The loss is not finite in {self.place}, step {step + 1} ({told}).", HINT)
            for name, value in {"loss": total, **found}.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        return dict(self._sums)
