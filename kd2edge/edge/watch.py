"""Watching the machine while a worker measures: a thread of the waiting parent, which otherwise sleeps.

It looks four times a second. A look takes some 0.4 ms where clocks stand in /proc/cpuinfo alone (two cores, virtual),
on a core that the worker does not use if there are two: 0.15 % of one core at worst, and never inside the worker.
A GPU is looked at only where its target is measured, oftener (see `gpu_watch`); the energy is then of its rails.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from kd2edge.edge import gpu_watch, gpus
from kd2edge.edge.gpu_watch import SLOW, GpuWatch, GpuWatched, Window
from kd2edge.edge.sensors import Reading, Sensors
from kd2edge.report.model import Number
from kd2edge.schema import Section

EVERY_S = 0.25
IDLE_S = 1.0
SLOW_READINGS_AT_MOST = 0.1
POINTS = 200
NO_PACKAGE = "no RAPL package whose energy may be read here"
NO_RAIL = "no power rail of the GPU that could be read throughout"


class Watched(Section):
    """What was seen in one window of time, which began at the Unix time `at`; `seconds` count from there.

    `mhz` and `celsius` have a value for each of `seconds`, or none at all. `joules` are those above idling.
    """

    at: float
    lasted_s: float
    seconds: tuple[float, ...] = ()
    mhz: tuple[float, ...] = ()
    celsius: tuple[float, ...] = ()
    governor: str | None = None
    floor_mhz: float | None = None
    throttle_events: int | None = None
    steal: float | None = None
    rails: tuple[str, ...] = ()
    idle_watts: float | None = None
    joules: float | None = None
    gpu: GpuWatched | None = None


class Watch:
    """A context in which the machine, and if asked its `gpu`, is watched; with `energy` after a second of idling.

    Times are nanoseconds of `time.perf_counter_ns`, which on Linux is one clock for all processes.
    """

    def __init__(
        self,
        energy: bool = False,
        root: Path = Path("/"),
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
        gpu: bool = False,
    ) -> None:
        self.sensors = Sensors(root)
        found = gpus.find(root) if gpu else None
        self.why_no_gpu = found if isinstance(found, str) else None
        self.gpu = None if found is None or isinstance(found, str) else GpuWatch(found, clock)
        self.rails = (self.gpu.gpu.rails if self.gpu else ()) if gpu else tuple(self.sensors.rails)
        self.energy = energy and bool(self.rails)
        self.clock, self.sleep = clock, sleep
        self.readings: list[tuple[int, Reading]] = []
        self.idle_watts: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self.look()
        if self.gpu:
            self.gpu.begin()
        try:
            self.idle_watts = self._idle() if self.energy else None
        except BaseException:  # interrupted: nobody will leave what was not entered
            if self.gpu:
                self.gpu.end()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.look()
        if self.gpu:
            self.gpu.end()

    def look(self) -> None:
        self.readings.append((self.clock(), self.sensors.read()))

    def told(self, window: Window) -> Watched:
        """What was seen from one moment to another, in ns; counters are those of the looks around them."""
        began, ended = window
        inside = [(at, reading) for at, reading in self.readings if began <= at <= ended]
        before = max((pair for pair in self.readings if pair[0] <= began), default=self.readings[0], key=_moment)
        after = min((pair for pair in self.readings if pair[0] >= ended), default=self.readings[-1], key=_moment)
        mhz = tuple(reading.mhz for _, reading in inside if reading.mhz is not None)
        celsius = tuple(reading.celsius for _, reading in inside if reading.celsius is not None)
        return Watched(
            at=time.time() - (self.clock() - began) / 1e9,
            lasted_s=(ended - began) / 1e9,
            seconds=tuple((at - began) / 1e9 for at, _ in inside),
            mhz=mhz if len(mhz) == len(inside) else (),
            celsius=celsius if len(celsius) == len(inside) else (),
            governor=self.sensors.governor,
            floor_mhz=self.sensors.floor_mhz,
            throttle_events=_rise(before[1].throttled, after[1].throttled),
            steal=_stolen(before[1], after[1]),
            rails=self.rails if self.energy else (),
            idle_watts=self.idle_watts,
            joules=self._above_idle(began, ended),
            gpu=self.gpu.told(window) if self.gpu else GpuWatched(why_not=self.why_no_gpu) if self.why_no_gpu else None,
        )

    def _idle(self) -> float | None:
        """Watts while nothing is done, before the worker starts."""
        began = self.clock()
        self.sleep(IDLE_S)
        self.look()
        if self.gpu:
            self.gpu.look()
        ended = (self.gpu or self).readings[-1][0]  # as far as is known
        joules = self._taken(began, ended)
        return None if joules is None else joules / max((ended - began) / 1e9, 1e-9)

    def _go_on(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def _above_idle(self, began: int, ended: int) -> float | None:
        """Joules of the window less what idling would have taken."""
        joules = None if self.idle_watts is None else self._taken(began, ended)
        return None if joules is None or self.idle_watts is None else joules - self.idle_watts * (ended - began) / 1e9

    def _taken(self, began: int, ended: int) -> float | None:
        """Joules of the rails, between two looks in proportion to the time. None where a look missed a rail."""
        if self.gpu:
            return self.gpu.joules((began, ended))
        if not all(reading.microjoules for _, reading in self.readings):
            return None
        return sum(
            self._joules(first, last) * max(0, min(ended, then) - max(began, at)) / max(then - at, 1)
            for (at, first), (then, last) in zip(self.readings, self.readings[1:], strict=False)
        )

    def _joules(self, first: Reading, last: Reading) -> float:
        spans = zip(first.microjoules, last.microjoules, self.sensors.rails.values(), strict=False)
        return sum((then - at) % around for at, then, around in spans) / 1e6


def conditions(watched: Sequence[Watched]) -> dict[str, Any]:
    """Whether a row was `throttled` (left out where the machine does not tell), its `steal` in 0..1, and the rest.

    Throttled: a counter rose, or under the governor "performance" the fastest processor was below 0.95 of the clock
    it keeps in more than a tenth of the looks; or the GPU was, or it told a reason of its own.
    """
    found: dict[str, Any] = {}
    events = [one.throttle_events for one in watched if one.throttle_events is not None]
    fast = [(one.mhz, one.floor_mhz) for one in watched if one.governor == "performance" and one.floor_mhz]
    slow = [mhz < SLOW * floor for clocks, floor in fast for mhz in clocks]
    if events or slow:
        found["throttled"] = sum(events) > 0 or (bool(slow) and sum(slow) / len(slow) > SLOW_READINGS_AT_MOST)
    seen = [one.gpu for one in watched if one.gpu is not None]
    low = gpu_watch.throttled(seen, SLOW_READINGS_AT_MOST)
    if low is not None:
        found["throttled"] = found.get("throttled", False) or low
    elif seen and not found.get("throttled"):  # a processor that was not says nothing of the GPU
        found.pop("throttled", None)
    stolen = [(one.steal, one.lasted_s) for one in watched if one.steal is not None]
    if stolen:
        found["steal"] = float(np.average([share for share, _ in stolen], weights=[lasted for _, lasted in stolen]))
    looks: dict[str, Any] = {"looks": sum(len(one.seconds) for one in watched)}
    if events:
        looks["throttle_events"] = sum(events)
    for name in ("mhz", "celsius"):
        values = [value for one in watched for value in getattr(one, name)]
        looks |= {name: [min(values), max(values)]} if values else {}
    if any(one.rails for one in watched):
        looks |= {"rails": sorted({rail for one in watched for rail in one.rails})}
        looks |= {"idle_watts": [one.idle_watts for one in watched]}
    if seen:
        looks |= {"gpu": gpu_watch.conditions(seen)}
    return found | {"watch": looks}


def trace(watched: Sequence[Watched]) -> dict[str, list[float]]:
    """The series `seconds`, `mhz` and `celsius` over all windows, at most 200 points; empty where none is known."""
    told = [name for name in ("mhz", "celsius") if all(getattr(one, name) for one in watched if one.seconds)]
    seen = sorted((one for one in watched if one.seconds), key=lambda one: one.at)
    if not (told and seen):
        return {}
    series = {name: [value for one in seen for value in getattr(one, name)] for name in told}
    series["seconds"] = [round(one.at - seen[0].at + second, 3) for one in seen for second in one.seconds]
    keep = np.unique(np.linspace(0, len(series["seconds"]) - 1, POINTS).round().astype(int))
    return {name: [values[index] for index in keep] for name, values in series.items()}


def energy(watched: Sequence[Watched], images: int) -> Number:
    """Joules an image above idling, of all windows together. Null, with a note, where they are not told."""
    joules = [one.joules for one in watched if one.joules is not None]
    note = NO_RAIL if any(one.gpu for one in watched) else NO_PACKAGE
    unknown = Number(value=None, unit="J/img", better="lower", note=note)
    if not joules or len(joules) < len(watched) or not images:
        return unknown
    if sum(joules) <= 0:
        return unknown.model_copy(update={"note": "it took no more than idling did before"})
    return Number(value=sum(joules) / images, unit="J/img", n=images, better="lower")


def _moment(pair: tuple[int, Reading]) -> int:
    return pair[0]


def _rise(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first


def _stolen(first: Reading, last: Reading) -> float | None:
    if first.ticks is None or last.ticks is None or last.ticks[1] <= first.ticks[1]:
        return None
    return (last.ticks[0] - first.ticks[0]) / (last.ticks[1] - first.ticks[1])
