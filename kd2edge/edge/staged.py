"""What a batch takes on a device of its own, stage by stage, and how many batches it does with several under way.

The device's clock (events around the copies and the computing) and the host's (how long it takes to ask) beside the end
to end latency of `measure`, which stays what a caller waits for. Warnings of trtexec (`sampleReporting`) become
conditions, with its bounds.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from kd2edge import stats
from kd2edge.edge.cuda.faults import NotCaptured
from kd2edge.edge.latencies import mean_interval
from kd2edge.edge.measure import MEASURING_AT_MOST, NEEDED, Nanoseconds, batches, percentile, undisturbed, warm_up
from kd2edge.edge.session import Floats, Staged, Stages
from kd2edge.report.model import Number
from kd2edge.schema import Latency

FIELDS = (*Stages._fields, "graph")
NEEDED_HERE = {**NEEDED, 95: 130}  # as the others, by LoadGen's early stopping
ENQUEUE_BOUND = 0.8
UNSTABLE_CV = 0.025

Clock = Callable[[], int]


def measure_stages(
    session: Staged, images: Floats, latency: Latency, clock: Clock
) -> tuple[Nanoseconds, dict[str, Any]]:
    """Samples as int64 [n, 5], `FIELDS` in ns with `graph` 0 or 1, and what there is to tell.

    Half of the protocol's seconds without a captured graph, half with one, `min_samples` of each, and never over six
    times the seconds; each is warmed up. `told["no_graph"]` says why there are none with a graph.
    """
    told: dict[str, Any] = {}
    parts = [np.empty((0, len(FIELDS)), np.int64)]
    for graph in (False, True):
        turns = cycle(batches(images, latency.batch))
        try:
            with undisturbed():
                warm_up(lambda x, graph=graph: session.stages(x, graph), turns, latency.warmup_ms, clock)  # type: ignore[misc]
                parts.append(_series(session, turns, latency, graph, clock))
        except NotCaptured as error:
            told["no_graph"] = error.message
    return np.concatenate(parts), told


def _series(session: Staged, turns: Iterator[Floats], latency: Latency, graph: bool, clock: Clock) -> Nanoseconds:
    taken: list[Stages] = []
    half, first = 1e9 * latency.seconds / 2, clock()
    while True:
        taken.append(session.stages(next(turns), graph))
        lasted = clock() - first
        if lasted >= half and (len(taken) >= latency.min_samples or lasted >= MEASURING_AT_MOST * half):
            return np.array([(*stages, int(graph)) for stages in taken], np.int64)


def flood(session: Staged, images: Floats, latency: Latency, streams: int, clock: Clock) -> Nanoseconds:
    """Time between batches that come back with `streams` of them under way, ns as int64 [n]; after a warm-up.

    The oldest is waited for and the next begun in its place. Lasts as `measure` does. Raises `UserError` where there is
    no room for so many.
    """
    session.open_streams(streams)
    turns = cycle(batches(images, latency.batch))
    with undisturbed():
        under_way = deque(range(streams))
        for stream in under_way:
            session.begin(next(turns), stream)
        first = last = clock()
        warm_until = first + 1e6 * latency.warmup_ms
        taken: list[int] = []
        while True:
            session.finish(under_way[0])
            now = clock()
            session.begin(next(turns), under_way[0])
            under_way.rotate(-1)
            if last >= warm_until:
                taken.append(now - last)
            else:
                first = now
            last = now
            lasted, seconds = now - first, 1e9 * latency.seconds
            if lasted >= seconds and (len(taken) >= latency.min_samples or lasted >= MEASURING_AT_MOST * seconds):
                break
        for stream in under_way:
            session.finish(stream)
    return np.array(taken, np.int64)


def summary(
    rounds: Sequence[Nanoseconds], batch: int, shipped: bool, no_graph: str | None = None, confidence: float = 0.95
) -> tuple[dict[str, Number], dict[str, Any]]:
    """Numbers and conditions of the samples of one or more processes, int64 [n, 5] each, pooled.

    `gpu_compute_*` and `enqueue_p50` are with a captured graph, those that end in `_no_graph` without one; copies are
    those of the latter. `shipped` says which of both the model ships as, and so what is `enqueue_bound` (asking takes
    over 0.8 of the computing) and `copy_bound` (a copy takes as long as the computing). `gpu_unstable` says that the
    standard deviation of any computing is over 2.5 % of its mean.
    """
    numbers: dict[str, Number] = {}
    medians: dict[bool, dict[str, float]] = {}
    unsteady: list[bool] = []
    for graph, suffix in ((True, ""), (False, "_no_graph")):
        taken = [{name: one[one[:, -1] == graph, i] for i, name in enumerate(Stages._fields)} for one in rounds]
        compute = [one["compute"] for one in taken]
        found = _computing(compute, batch, confidence, no_graph if graph else None)
        numbers |= {f"gpu_compute_{name}{suffix}": number for name, number in found.items()}
        pooled = {name: _ms([one[name] for one in taken]) for name in Stages._fields}
        asked = percentile(pooled["enqueue"], 50, confidence)
        numbers[f"enqueue_p50{suffix}"] = asked.model_copy(update={"note": no_graph}) if graph and no_graph else asked
        if not graph:
            numbers |= {f"{name}_p50": percentile(pooled[name], 50, confidence) for name in ("h2d", "d2h")}
        if len(pooled["compute"]):
            medians[graph] = {name: stats.percentile(ms, 50) for name, ms in pooled.items()}
            unsteady.append(bool(pooled["compute"].std() > UNSTABLE_CV * pooled["compute"].mean()))
    told: dict[str, Any] = {"cuda_graph": shipped, "streams": 1}
    if no_graph:
        told["no_graph"] = no_graph
    if shipped in medians:
        at = medians[shipped]
        told["enqueue_bound"] = at["enqueue"] > ENQUEUE_BOUND * at["compute"]
        told["copy_bound"] = max(at["h2d"], at["d2h"]) >= at["compute"]
    return numbers, told | {"gpu_unstable": any(unsteady)}


def timed(metric: str, stages: Sequence[Nanoseconds]) -> tuple[str, list[Nanoseconds]] | None:
    """A `gpu_compute_*` as the latency that is compared alike, and its samples by round; None for another metric."""
    name, prefix = metric.removesuffix("_no_graph"), "gpu_compute_"
    if not name.startswith(prefix):
        return None
    graph, place = int(name == metric), FIELDS.index("compute")
    return f"latency_{name.removeprefix(prefix)}", [one[one[:, -1] == graph, place] for one in stages]


def _computing(rounds: Sequence[Nanoseconds], batch: int, confidence: float, why_none: str | None) -> dict[str, Number]:
    ms = _ms(rounds)
    numbers = {f"p{q}": percentile(ms, q, confidence, needed) for q, needed in sorted(NEEDED_HERE.items())}
    n, mean, std = len(ms), float(ms.mean()) if len(ms) else None, float(ms.std()) if len(ms) else None
    low, high = (mean_interval("latency_mean", rounds, batch, confidence) or (None, None)) if n else (None, None)
    numbers["mean"] = Number(value=mean, unit="ms", n=n, low=low, high=high, better="lower")
    numbers["std"] = Number(value=std, unit="ms", n=n, better="lower")
    share = None if std is None or not mean else 100 * std / mean
    numbers["cov"] = Number(value=share, unit="%", n=n, better="lower")
    return numbers if n else {name: one.model_copy(update={"note": why_none}) for name, one in numbers.items()}


def _ms(rounds: Sequence[Nanoseconds]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.sort(np.concatenate(list(rounds))) / 1e6
    return found
