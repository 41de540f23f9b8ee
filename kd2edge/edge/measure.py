"""How latency is measured: single stream, warm by time and by stability, then long enough for the claim that is made.

After MLPerf LoadGen's early stopping (arXiv 1911.02549): a p90 needs 64 samples and a p99 needs 662. Percentiles are
nearest-rank, as in LoadGen and trtexec, with distribution-free intervals from order statistics; those of means
resample stretches of time.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from kd2edge import stats
from kd2edge.edge.latencies import MEANS, mean_interval
from kd2edge.edge.session import Floats, Session
from kd2edge.errors import UserError
from kd2edge.report.model import Number
from kd2edge.schema import Latency

Nanoseconds = npt.NDArray[np.int64]

NEEDED = {50: 1, 90: 64, 99: 662}
WINDOW = 50
SETTLED = 0.01
SETTLING_AT_MOST = 20.0
MEASURING_AT_MOST = 6.0
SPREAD_AT_MOST = 0.10


@dataclass(frozen=True)
class Samples:
    """Latencies of one process in nanoseconds, int64 [n], and how its warm-up went."""

    ns: Nanoseconds
    warmup: dict[str, Any]


def measure(
    session: Session, images: Floats, latency: Latency, clock: Callable[[], int] = time.perf_counter_ns
) -> Samples:
    """Time `infer` on real images, float32 [M, C, H, W], in batches of `latency.batch` that go round and round.

    Warm-up lasts `warmup_ms` and until the median of 50 calls is within 1 % of that of the 50 before, but never over
    20 times `warmup_ms`; sampling lasts `seconds` and `min_samples`, but never over 6 times `seconds`: a slow model
    then has fewer samples, and `summary` claims less. Raises `UserError` if there are no images.
    """
    if not len(images):
        raise UserError("There are no images to measure latency with.")
    turns = cycle(batches(images, latency.batch))
    with undisturbed():
        warmup = warm_up(session.infer, turns, latency.warmup_ms, clock)
        return Samples(_sample(session, turns, latency, clock), warmup)


def summary(
    rounds: Sequence[Nanoseconds], batch: int, confidence: float = 0.95
) -> tuple[dict[str, Number], dict[str, Any]]:
    """Numbers and conditions of the samples of one or more processes, int64 [n] each, pooled.

    Latencies are in ms per batch, throughput in images per second. `unstable` says that the pooled interquartile
    range, or the spread of the processes' own medians, is over a tenth of the median.
    """
    ms = np.sort(np.concatenate(list(rounds))) / 1e6
    numbers = {f"latency_p{q}": percentile(ms, q, confidence) for q in NEEDED}
    mean = float(ms.mean())
    numbers["latency_mean"] = Number(value=mean, unit="ms", n=len(ms), better="lower")
    numbers["latency_std"] = Number(value=float(ms.std()), unit="ms", n=len(ms), better="lower")
    numbers["throughput"] = Number(value=1e3 * batch / mean, unit="img/s", n=len(ms), better="higher")
    for name in MEANS:
        low, high = mean_interval(name, rounds, batch, confidence) or (None, None)
        numbers[name] = numbers[name].model_copy(update={"low": low, "high": high})
    return numbers, _steadiness(ms, [float(np.median(ns)) / 1e6 for ns in rounds])


def trace(rounds: Sequence[Nanoseconds]) -> list[float]:
    """The nearest-rank percentiles 0, 1, ... 100 of the pooled samples in ms, of which 0 is the fastest."""
    rising = np.sort(np.concatenate(list(rounds)))
    ranks = [max(1, -(-q * len(rising) // 100)) for q in range(101)]
    return [float(rising[rank - 1]) / 1e6 for rank in ranks]


def percentile(ms: npt.NDArray[np.float64], q: int, confidence: float, needed: int | None = None) -> Number:
    """The nearest rank with its interval; null, with a note, of fewer than `needed` samples, 1 to 662 by q."""
    n, needed = len(ms), needed or NEEDED[q]
    if n < needed:
        note = f"a p{q} needs {needed} samples, there are {n}"
        return Number(value=None, unit="ms", n=n, better="lower", note=note)
    low, high = stats.percentile_interval(ms, q, confidence) or (None, None)
    return Number(value=stats.percentile(ms, q), unit="ms", n=n, low=low, high=high, better="lower")


def _steadiness(ms: npt.NDArray[np.float64], medians: list[float]) -> dict[str, Any]:
    p25, p50, p75 = (stats.percentile(ms, q) for q in (25, 50, 75))
    spread, drift = (p75 - p25) / p50, (max(medians) - min(medians)) / p50
    return {
        "round_medians_ms": medians,
        "iqr_over_p50": spread,
        "unstable": max(spread, drift) > SPREAD_AT_MOST,
    }


def batches(images: Floats, size: int) -> list[Floats]:
    """Views of the images, none of them copied unless the last batch has to be filled up from the start."""
    needed = math.ceil(len(images) / size) * size
    whole = images if needed == len(images) else images[np.arange(needed) % len(images)]
    return [whole[start : start + size] for start in range(0, needed, size)]


def warm_up(
    ask: Callable[[Floats], object], turns: Iterator[Floats], warmup_ms: float, clock: Callable[[], int]
) -> dict[str, Any]:
    """Ask until the time is over and the median has settled; how long that took."""
    taken: list[int] = []
    start, settled = clock(), False
    while True:
        elapsed_ms = (clock() - start) / 1e6
        if (settled and elapsed_ms >= warmup_ms) or elapsed_ms >= SETTLING_AT_MOST * warmup_ms:
            return {"ms": elapsed_ms, "calls": len(taken), "settled": settled}
        taken.append(_timed(ask, next(turns), clock))
        if len(taken) % WINDOW == 0 and len(taken) > WINDOW:
            before, after = np.median(taken[-2 * WINDOW : -WINDOW]), np.median(taken[-WINDOW:])
            settled = bool(abs(after - before) < SETTLED * before)


def _sample(session: Session, turns: Iterator[Floats], latency: Latency, clock: Callable[[], int]) -> Nanoseconds:
    """A bare loop: a function of its own for each call would be seen in the latency of a small model."""
    taken: list[int] = []
    seconds = 1e9 * latency.seconds
    first = clock()
    for x in turns:
        start = clock()
        session.infer(x)
        end = clock()
        taken.append(end - start)
        if end - first >= seconds and (len(taken) >= latency.min_samples or end - first >= MEASURING_AT_MOST * seconds):
            break
    return np.array(taken, np.int64)


def _timed(ask: Callable[[Floats], object], x: Floats, clock: Callable[[], int]) -> int:
    start = clock()
    ask(x)
    return clock() - start


@contextmanager
def undisturbed() -> Iterator[None]:
    """Python's own garbage collection is not the model's latency."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
