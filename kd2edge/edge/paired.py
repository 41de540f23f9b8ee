"""Two models timed in turns of one process, so that a machine that slows down or wakes up does so for both.

What is compared is each turn's ratio of medians: on a busy machine it is steadier by far than either latency.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kd2edge import stats
from kd2edge.edge.measure import Nanoseconds, measure
from kd2edge.edge.session import Floats, Session
from kd2edge.schema import Latency

TURNS = 12  # the 95 % interval of a median of twelve lies between the third and the tenth


@dataclass(frozen=True)
class Paired:
    """Latencies in nanoseconds by turn, int64 [n] each, of a model and of the reference it took turns with."""

    model: tuple[Nanoseconds, ...]
    reference: tuple[Nanoseconds, ...]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Median over the turns of the ratio of medians, and its 95 % interval; the extremes where turns are few."""
        ratios = [float(np.median(a) / np.median(b)) for a, b in zip(self.model, self.reference, strict=True)]
        low, high = stats.percentile_interval(ratios, 50) or (min(ratios), max(ratios))
        return stats.median(ratios), low, high

    @property
    def p50(self) -> tuple[float, float, float, int]:
        """The model's median in ms, its 95 % interval, and the number of calls."""
        ms = np.concatenate(list(self.model)) / 1e6
        low, high = stats.percentile_interval(ms, 50) or (float(ms.min()), float(ms.max()))
        return stats.percentile(ms, 50), low, high, len(ms)


def time_in_turns(
    model: Session,
    reference: Session,
    images: Floats,
    latency: Latency,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Paired:
    """Time both on float32 [M, C, H, W] images, `TURNS` times one after the other, who begins changing each time.

    `latency` holds for each model: its seconds and samples are divided among the turns, and each is warmed up once.
    Raises `UserError` if there are no images.
    """
    share = {"seconds": latency.seconds / TURNS, "min_samples": math.ceil(latency.min_samples / TURNS)}
    first = latency.model_copy(update=share)
    rest = first.model_copy(update={"warmup_ms": 0.0})
    taken: tuple[list[Nanoseconds], list[Nanoseconds]] = ([], [])
    for turn in range(TURNS):
        for side in ((0, 1), (1, 0))[turn % 2]:
            plan = rest if turn else first
            taken[side].append(measure((model, reference)[side], images, plan, clock).ns)
    return Paired(tuple(taken[0]), tuple(taken[1]))
