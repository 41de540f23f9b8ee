"""Watching a GPU while a worker measures: ten looks a second and more, of which clocks, heat and energy are told.

The looks are those of a thread of the waiting parent. Where a GPU tells its power and no counter of its energy, the
energy is the area under the power by the trapezoid rule.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from kd2edge.edge.sensors import Gpu, GpuReading
from kd2edge.schema import Section

EVERY_S = 0.08  # a look takes some ms where rails are read over I2C

Window = tuple[int, int]


class GpuWatched(Section):
    """What was seen of a GPU in one window of time; `why_not` says why nothing was.

    `mhz`, `memory_mhz`, `celsius`, `busy` (0..1) and `watts` (of all rails) have the values that were told, one a look;
    `slow` is the share of looks whose clock was below `SLOW` of `floor_mhz` and nobody's setting. `reasons` are those
    seen that are throttling, `events` the throttling counted. `others` computed on the GPU before the worker did,
    which then was busy for the share `busy_before`.
    """

    name: str = ""
    why_not: str | None = None
    seconds: tuple[float, ...] = ()
    mhz: tuple[float, ...] = ()
    memory_mhz: tuple[float, ...] = ()
    celsius: tuple[float, ...] = ()
    busy: tuple[float, ...] = ()
    watts: tuple[float, ...] = ()
    floor_mhz: float | None = None
    slow: float | None = None
    reasons: tuple[str, ...] | None = None
    events: int | None = None
    others: tuple[str, ...] | None = None
    busy_before: float | None = None
    fault: str | None = None


SLOW = 0.95


class GpuWatch:
    """Looks at a GPU from `begin` to `end`. Times are nanoseconds of the `clock`."""

    def __init__(self, gpu: Gpu, clock: Callable[[], int]) -> None:
        self.gpu, self.clock = gpu, clock
        self.readings: list[tuple[int, GpuReading]] = []
        self.others = gpu.others()
        self._over, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._go_on, name="watch of the GPU", daemon=True)

    def begin(self) -> None:
        self.look()
        self._thread.start()

    def end(self) -> None:
        """The last look. The GPU is closed."""
        self._over.set()
        self._thread.join()
        self.look()
        self.gpu.close()

    def look(self) -> None:
        with self._looking:  # of two threads, one by one: readings stand in the order of their times
            self.readings.append((self.clock(), self.gpu.read()))

    def joules(self, window: Window) -> float | None:
        """What the rails took from one moment to another; None where there are none, or a look missed one of them."""
        began, ended = window
        readings = list(self.readings)
        taken = [
            _energy(first, last, (then - at) / 1e9, max(0, min(ended, then) - max(began, at)) / 1e9)
            for (at, first), (then, last) in pairwise(readings)
        ]
        told = [joules for joules in taken if joules is not None]
        return sum(told) if self.gpu.rails and told and len(told) == len(taken) else None

    def told(self, window: Window) -> GpuWatched:
        """What was seen from one moment to another; counters are those of the looks around them."""
        began, ended = window
        inside = [(at, reading) for at, reading in self.readings if began <= at <= ended]
        before = next((one for at, one in reversed(self.readings) if at <= began), self.readings[0][1])
        after = next((one for at, one in self.readings if at >= ended), self.readings[-1][1])
        looks = [reading for _, reading in inside]
        watts = [_watts(*pair) for pair in pairwise(self.readings) if began <= pair[0][0] <= ended]
        return GpuWatched(
            name=self.gpu.name,
            seconds=tuple((at - began) / 1e9 for at, _ in inside),
            mhz=tuple(one.mhz for one in looks if one.mhz is not None),
            memory_mhz=tuple(one.memory_mhz for one in looks if one.memory_mhz is not None),
            celsius=tuple(one.celsius for one in looks if one.celsius is not None),
            busy=tuple(one.busy for one in looks if one.busy is not None),
            watts=tuple(one for one in watts if one is not None),
            floor_mhz=self._floor(),
            slow=self._slow(looks),
            reasons=self._throttling(looks),
            events=None if before.events is None or after.events is None else after.events - before.events,
            others=self.others,
            busy_before=self.readings[0][1].busy,
            fault=next((one.fault for _, one in self.readings if one.fault), None),
        )

    def _go_on(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def _floor(self) -> float | None:
        """The clock it keeps; where only its reasons tell of throttling, the highest that was seen of it at all.

        For a clock locked low stands still, and a card may never reach the highest it names.
        """
        if self.gpu.floor_mhz is not None:
            return self.gpu.floor_mhz
        seen = [one.mhz for _, one in self.readings if one.mhz is not None]
        return max(seen, default=None) if any(one.reasons is not None for _, one in self.readings) else None

    def _slow(self, looks: Sequence[GpuReading]) -> float | None:
        floor, locked = self._floor(), set(self.gpu.locked)
        clocks = [(one.mhz, bool(locked & set(one.reasons or ()))) for one in looks if one.mhz is not None]
        if not floor or not clocks:
            return None
        return sum(mhz < SLOW * floor and not setting for mhz, setting in clocks) / len(clocks)

    def _throttling(self, looks: Sequence[GpuReading]) -> tuple[str, ...] | None:
        told = [one.reasons for one in looks if one.reasons is not None]
        found = {reason for reasons in told for reason in reasons} - set(self.gpu.harmless)
        return tuple(sorted(found)) if told else None


def throttled(watched: Sequence[GpuWatched], at_most: float) -> bool | None:
    """Whether a clock was low in more than `at_most` of a window's looks, or throttling told.

    None if it was in no window that tells, and one of them does not: it has no such value, or the GPU was lost.
    """
    told = [_was_throttled(one, at_most) for one in watched]
    if True in told:
        return True
    return None if not told or None in told else False


def conditions(watched: Sequence[GpuWatched]) -> dict[str, Any]:
    """What was seen, as JSON values: ranges of clocks, °C, W and the share of time the GPU was busy, and the rest."""
    found: dict[str, Any] = {"looks": sum(len(one.seconds) for one in watched)}
    for name in ("name", "why_not", "fault", "floor_mhz"):
        values = sorted({value for one in watched if (value := getattr(one, name))})
        found |= {name: values[0] if len(values) == 1 else values} if values else {}
    for name in ("mhz", "memory_mhz", "celsius", "busy", "watts"):
        values = [value for one in watched for value in getattr(one, name)]
        found |= {name: [min(values), max(values)]} if values else {}
    for name in ("slow", "busy_before"):
        values = [value for one in watched if (value := getattr(one, name)) is not None]
        found |= {name: max(values)} if values else {}
    events = [one.events for one in watched if one.events is not None]
    found |= {"throttle_events": sum(events)} if events else {}
    for name in ("reasons", "others"):
        told = [value for one in watched if (value := getattr(one, name)) is not None]
        found |= {name: sorted({each for value in told for each in value})} if told else {}
    return found


def _was_throttled(seen: GpuWatched, at_most: float) -> bool | None:
    if seen.reasons or seen.events or (seen.slow or 0.0) > at_most:
        return True
    known = (seen.reasons, seen.events, seen.slow) != (None, None, None)
    return False if known and seen.fault is None else None


def _energy(first: GpuReading, last: GpuReading, lasts_s: float, taken_s: float) -> float | None:
    """Joules of `taken_s` of the time between two looks. A counter that fell began anew and tells nothing."""
    if lasts_s <= 0:
        return 0.0
    if first.microjoules and last.microjoules:
        rise = sum(last.microjoules) - sum(first.microjoules)
        return None if rise < 0 else rise / 1e6 * taken_s / lasts_s
    if first.watts and last.watts:
        return (sum(first.watts) + sum(last.watts)) / 2 * taken_s
    return None


def _watts(first: tuple[int, GpuReading], last: tuple[int, GpuReading]) -> float | None:
    """The power of one look: told by it, or what the counter rose by until the next."""
    if first[1].watts:
        return sum(first[1].watts)
    joules = _energy(first[1], last[1], (last[0] - first[0]) / 1e9, (last[0] - first[0]) / 1e9)
    return joules * 1e9 / (last[0] - first[0]) if joules is not None and last[0] > first[0] else None
