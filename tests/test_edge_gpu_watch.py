"""Watching a GPU: whose clock is low, what a counter of energy means, and looks of two threads."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kd2edge.edge.gpu_watch import GpuWatch, throttled
from kd2edge.edge.sensors import GpuReading
from kd2edge.edge.watch import Watch
from tests.test_edge_sensors_jetson import S, Script


class Counter:
    """A GPU with a counter of its energy, in microjoules, that the script sets."""

    name = "counter"
    floor_mhz: float | None = None
    rails: tuple[str, ...] = ("GPU board",)
    harmless: tuple[str, ...] = ()
    locked: tuple[str, ...] = ()
    microjoules = 0

    def read(self) -> GpuReading:
        return GpuReading(microjoules=(self.microjoules,))

    def others(self) -> None: ...

    def close(self) -> None: ...


class Slow(Counter):
    """A GPU of 5 W that takes its time to tell so."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self.pause = pause

    def read(self) -> GpuReading:
        self.pause()
        return GpuReading(watts=(5.0,))


class Clocked(Counter):
    """A GPU whose clock and reasons are the script's, and which names no clock that it keeps."""

    def __init__(self, mhz: list[float], reasons: tuple[str, ...] | None) -> None:
        self.mhz, self.reasons = mhz, reasons

    def read(self) -> GpuReading:
        return GpuReading(mhz=self.mhz.pop(0), reasons=self.reasons)


@pytest.mark.parametrize(
    ("mhz", "reasons", "expected"),
    [
        ([1500.0] * 20, (), False),  # locked low, whatever the highest there is
        ([210.0] + [1500.0] * 19, (), False),  # idle before it was asked to compute
        ([1980.0] * 15 + [1500.0] * 5, (), True),  # it sank
        ([1500.0] * 20, ("sw_thermal_slowdown",), True),
        ([1500.0] * 20, None, None),  # which might be all it has left
    ],
)
def test_a_gpu_without_a_known_clock_is_held_against_its_own_highest(
    mhz: list[float], reasons: tuple[str, ...] | None, expected: bool | None
) -> None:
    script = Script()
    watch = GpuWatch(Clocked(mhz, reasons), script.clock)
    began = script.now
    while mhz:
        watch.look()
        script.now += S // 10
    assert throttled([watch.told((began + S // 10, script.now))], 0.1) is expected


def test_looks_of_two_threads_stand_in_the_order_of_their_times() -> None:
    watch = GpuWatch(Slow(lambda: time.sleep(0.001)), time.perf_counter_ns)

    def look_often() -> None:
        for _ in range(20):
            watch.look()

    threads = [threading.Thread(target=look_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [at for at, _ in watch.readings]
    assert len(times) == 60
    assert times == sorted(times)


def test_idling_counts_as_far_as_it_was_looked_at(tmp_path: Path) -> None:
    script = Script()

    def take(seconds: float) -> None:
        script.now += round(seconds * S)

    watch = Watch(False, tmp_path, script.clock, take)
    watch.gpu = GpuWatch(Slow(lambda: take(0.1)), script.clock)
    watch.gpu.look()
    assert watch._idle() == pytest.approx(5.0)


def test_the_power_of_a_window_is_that_of_its_looks() -> None:
    watch = GpuWatch(Counter(), Script().clock)
    watch.readings = [(at, GpuReading(watts=(9.0,) if at > 1 else ())) for at in range(4)]
    assert watch.told((0, 1)).watts == ()


@pytest.mark.parametrize(("counts", "joules"), [((1, 4, 9), 5.5), ((1, 4, 0), None)])
def test_a_counter_is_split_by_the_time_and_one_that_begins_anew_is_no_energy(
    counts: tuple[int, ...], joules: float | None
) -> None:
    gpu, script = Counter(), Script()
    watch = GpuWatch(gpu, script.clock)
    began = script.now
    for count in counts:
        gpu.microjoules = count * 1_000_000
        watch.look()
        script.now += S
    assert watch.joules((began, began + S + S // 2)) == joules  # three of the first second, half of the other's five
