"""What one subject came to, as a file of its own: every contender's step, their ratios, their curves, the ablation."""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from kd2edge import stats
from kd2edge.files import write_atomic
from kd2edge.schema import Section

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "peers-training"
OURS, REFERENCE, TORCHDISTILL, OTHER_SEED = "kd2edge", "reference", "torchdistill", "reference, another seed"
START = 4  # steps before the turns, in which all is compiled
WINDOW = 25  # steps that a curve is smoothed over


class Ratio(Section):
    """A quotient of medians of turns, with its 95 % interval by a bootstrap over the turns (null where too few)."""

    value: float
    low: float | None
    high: float | None


class Side(Section):
    """A contender: ms per step of each turn, s until its first step began, of that, and of `START` steps; its losses.

    `beside` are the ms of kd2edge as it is, in the turns of a change of it. `fault` says why there is nothing else.
    """

    name: str
    fault: str | None = None
    ms: tuple[float, ...] = ()
    beside: tuple[float, ...] = ()
    opened_s: float | None = None
    first_step_s: float | None = None
    start_s: float | None = None
    losses: tuple[float, ...] = ()
    notes: dict[str, Any] = Field(default_factory=dict)

    @property
    def step_ms(self) -> float:
        return stats.median(self.ms)


class Agreement(Section):
    """Of smoothed curves: the mean distance of two, and what two seeds of the reference are apart."""

    distance: float
    seeds_apart: float
    steps: int

    @property
    def share(self) -> float:
        return self.distance / self.seeds_apart


class Result(Section):
    """A subject on a device. `ablation` has kd2edge itself first; its ratios are over what a change ran beside."""

    subject: str
    about: str
    command: str
    created: str
    batch: int
    conditions: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    sides: tuple[Side, ...]
    ablation: tuple[Side, ...] = ()

    def side(self, name: str) -> Side | None:
        return next((side for side in self.sides if side.name == name and not side.fault), None)

    def faster(self, over: str) -> Ratio | None:
        """How many times as fast as another contender kd2edge is."""
        ours, theirs = self.side(OURS), self.side(over)
        return None if ours is None or theirs is None else ratio(theirs, ours)

    def agreement(self, name: str) -> Agreement | None:
        """How far a contender's curve is from the reference's, beside another seed's of the reference."""
        one, reference, other = self.side(name), self.side(REFERENCE), self.side(OTHER_SEED)
        if one is None or reference is None or other is None:
            return None
        steps = min(len(side.losses) for side in (one, reference, other))
        curves = [smoothed(side.losses[:steps]) for side in (one, reference, other)]
        apart = [float(np.abs(curve - curves[1]).mean()) for curve in (curves[0], curves[2])]
        return Agreement(distance=apart[0], seeds_apart=apart[1], steps=steps)


def ratio(side: Side, over: Side) -> Ratio:
    found = stats.percentile_ratio([[ms] for ms in side.ms], [[ms] for ms in over.ms])
    low, high = found.interval() or (None, None)
    return Ratio(value=found.value, low=low, high=high)


def smoothed(losses: tuple[float, ...]) -> np.ndarray:
    """The mean of every `WINDOW` steps in a row, float64 [n - WINDOW + 1]; of all, where there are fewer."""
    window = min(WINDOW, len(losses))
    return np.convolve(np.asarray(losses, np.float64), np.full(window, 1 / window), "valid")


def path_of(subject: str, device: str, results: Path = RESULTS) -> Path:
    return results / device / f"{subject}.json"


def read(path: Path) -> Result | None:
    return Result.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(result: Result, device: str, results: Path = RESULTS) -> None:
    """Losses to six digits, times to three: no more is known of them."""
    text = result.model_dump_json(indent=1, exclude_defaults=True)
    write_atomic(path_of(result.subject, device, results), f"{text}\n".encode())
