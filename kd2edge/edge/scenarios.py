"""How a model answers queries as they come in use: one by one, in groups, at random moments, all at once.

After MLPerf LoadGen's scenarios (arXiv 1911.02549, section IV). Queries are answered in order by one session, without
batching of our own. Where queries come by themselves a latency counts from the moment a query was due, never from when
the loop got to it: a loop that waits for the answer before it looks for the next query would ask less of a slow model.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from kd2edge import stats
from kd2edge.edge.measure import MEASURING_AT_MOST, NEEDED, Nanoseconds, measure, undisturbed
from kd2edge.edge.session import Floats, Session
from kd2edge.schema import BatchRange, Latency, Offline, Scenario, Server, SingleStream

LEAST = {"single_stream": NEEDED[90], "multi_stream": NEEDED[99], "server": NEEDED[99], "offline": 20}
TAIL = 99.0
SPINNING_S = 0.002  # the end of a wait that is not slept through: a sleep may last that much too long

Clock = Callable[[], int]
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Ran:
    """Latencies of queries in nanoseconds, int64 [n], in the order they were asked, and what else there is to tell.

    There are none, and `told["note"]` says why, where the file or the target does not take such queries.
    """

    ns: Nanoseconds = field(default_factory=lambda: np.empty(0, np.int64))
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Try:
    """One rate in queries/s: latencies of what was answered, how many `asked`, how many were `over` the bound.

    `met` says that the bound is no lower than the 99th percentile, at 0.99 confidence by LoadGen's early stopping.
    """

    rate: float
    ns: Nanoseconds
    asked: int
    over: int

    @property
    def met(self) -> bool:
        return len(self.ns) == self.asked and self.over <= may_be_over(self.asked)


def punctual(seconds: float) -> None:
    """Sleep, but for the last two milliseconds, which are waited through awake."""
    end = time.perf_counter() + seconds
    if seconds > SPINNING_S:
        time.sleep(seconds - SPINNING_S)
    while time.perf_counter() < end:
        pass


def play(
    session: Session,
    images: Floats,
    scenario: Scenario,
    profile: BatchRange,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = punctual,
) -> Ran:
    """Ask float32 [M, C, H, W] images by a scenario, round and round. Raises `UserError` as `measure` does."""
    size = query_size(scenario, session, profile)
    call = _call_size(size, session, profile)
    if call is None:
        takes = session.fixed_batch or f"{profile.min} to {profile.max}"
        return Ran(told={"note": f"queries of {size} cannot be put to batches of {takes}"})
    if isinstance(scenario, Server):
        return _server(session, images, scenario, clock, sleep)
    least = LEAST[scenario.kind]
    protocol = Latency(batch=size, warmup_ms=scenario.warmup_ms, seconds=scenario.seconds, min_samples=least)
    measured = measure(_InCalls(session, call), images, protocol, clock)
    return Ran(measured.ns, {"samples_per_query": size, "batch": call, "warmup": measured.warmup})


def query_size(scenario: Scenario, session: Session, profile: BatchRange) -> int:
    """How many samples a query has; offline, as many as go in one call."""
    if isinstance(scenario, Offline):
        return session.fixed_batch or profile.max
    return 1 if isinstance(scenario, SingleStream | Server) else scenario.samples


def _call_size(samples: int, session: Session, profile: BatchRange) -> int | None:
    """The largest batch that divides a query and that file and target take."""
    sizes = [session.fixed_batch] if session.fixed_batch else range(profile.max, profile.min - 1, -1)
    return next((size for size in sizes if samples % size == 0), None)


class _InCalls:
    """A session whose batches of any size are put to another in calls of one size, one after the other."""

    fixed_batch: int | None = None

    def __init__(self, session: Session, size: int) -> None:
        self.session, self.size = session, size
        self.provider, self.versions = session.provider, session.versions

    def infer(self, x: Floats) -> Floats:
        if len(x) == self.size:
            return self.session.infer(x)
        parts = range(0, len(x), self.size)
        return np.concatenate([self.session.infer(x[start : start + self.size]) for start in parts])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What it holds is not its own."""


def _server(session: Session, images: Floats, scenario: Server, clock: Clock, sleep: Sleep) -> Ran:
    """Try the stated rate, or search the highest that meets the bound; undisturbed queries in a row are the ceiling.

    By their mean or their median, whichever reaches more: a stall while warming up is not to lower it.
    """
    seconds = scenario.seconds / 10
    alone = Latency(warmup_ms=scenario.warmup_ms, seconds=seconds, min_samples=LEAST["single_stream"])
    warm = measure(session, images, alone, clock)
    capacity = 1e9 / min(stats.median(warm.ns), float(warm.ns.mean()))
    told: dict[str, Any] = {"warmup": warm.warmup, "capacity": capacity}
    turns = cycle(images[index : index + 1] for index in range(len(images)))

    def attempt(rate: float, number: int) -> Try:
        return _attempt(session, turns, scenario, rate, number, clock, sleep)

    with undisturbed():
        tries = [attempt(scenario.rate, 0)] if scenario.rate else _search(attempt, scenario, capacity)
    told["tries"] = [
        {"rate": t.rate, "asked": t.asked, "answered": len(t.ns), "over": t.over, "met": t.met} for t in tries
    ]
    best = max((t for t in tries if t.met), key=lambda t: t.rate, default=None)
    if best is None and scenario.rate is None:
        return Ran(told=told)
    shown = best or tries[0]
    return Ran(shown.ns, told | {"rate": shown.rate, "asked": shown.asked})


def _search(attempt: Callable[[float, int], Try], scenario: Server, capacity: float) -> list[Try]:
    """Bisect between the least rate that brings enough queries in time, and what back-to-back queries reach."""
    low, high = LEAST["server"] / (MEASURING_AT_MOST * scenario.seconds), capacity
    tries: list[Try] = []
    while low < high and len(tries) < scenario.tries:
        tries.append(attempt((low + high) / 2, len(tries)))
        low, high = (tries[-1].rate, high) if tries[-1].met else (low, tries[-1].rate)
    return tries


def _attempt(
    session: Session, turns: Iterator[Floats], scenario: Server, rate: float, number: int, clock: Clock, sleep: Sleep
) -> Try:
    """Queries for the scenario's seconds, at least 662 if as many come in six times that; what is later is unanswered.

    A search ends a try as soon as too many queries were over the bound.
    """
    longest_s = MEASURING_AT_MOST * scenario.seconds
    asked = max(1, min(max(round(rate * scenario.seconds), LEAST["server"]), round(rate * longest_s)))
    due = arrivals(rate, asked, (scenario.seed, number))
    bound = round(scenario.bound_ms * 1e6)
    give_up = None if scenario.rate else (bound, max(0, may_be_over(asked)))
    end = max(round(longest_s * 1e9), int(due[-1]) + round(scenario.seconds * 1e9))
    ns = serve(lambda: session.infer(next(turns)), due, end, clock, sleep, give_up)
    return Try(rate, ns, asked, int((ns > bound).sum()))


def arrivals(rate: float, queries: int, seed: tuple[int, int]) -> Nanoseconds:
    """When queries of a Poisson process of `rate` a second are due, in nanoseconds from its start, int64 [queries]."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, queries)
    return np.cumsum(gaps).astype(np.int64)


def serve(
    answer: Callable[[], object],
    due: Nanoseconds,
    at_most: int,
    clock: Clock,
    sleep: Sleep,
    give_up: tuple[int, int] | None = None,
) -> Nanoseconds:
    """Answer queries `due` at int64 [n] ns from now, in order; latencies from then to the answer, int64 [m], m <= n.

    It ends after `at_most` ns, and with `give_up` = (bound in ns, k) once more than k latencies were over the bound.
    """
    bound, left = give_up or (0, len(due))
    taken: list[int] = []
    start = clock()
    for moment in due.tolist():
        while (early := start + moment - clock()) > 0:
            sleep(early / 1e9)
        answer()
        done = clock() - start
        taken.append(done - moment)
        left -= done - moment > bound
        if left < 0 or done > at_most:
            break
    return np.array(taken, np.int64)


def may_be_over(queries: int) -> int:
    """How many of so many latencies may be over a bound that is still no lower than the 99th percentile; -1 if none.

    By LoadGen's early stopping at 0.99 confidence: none of 459, one of 662.
    """
    return bisect_right(range(queries), queries, key=lambda over: stats.early_stopping_minimum(TAIL, over)) - 1
