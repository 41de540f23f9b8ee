"""Watching a machine: fake /sys trees with known clocks, temperatures, counters and energy."""

from pathlib import Path
from typing import Any

import pytest

from kd2edge.edge.sensors import Sensors
from kd2edge.edge.watch import Watch, Watched, conditions, energy, trace

CPU = "sys/devices/system/cpu"
S = 1_000_000_000


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def laptop(root: Path) -> Path:
    return tree(
        root,
        {
            f"{CPU}/cpu0/cpufreq/scaling_cur_freq": 800_000,
            f"{CPU}/cpu1/cpufreq/scaling_cur_freq": 2_400_000,
            f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
            f"{CPU}/cpu0/cpufreq/scaling_max_freq": 2_500_000,
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": 3,
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": 4,
            f"{CPU}/cpu0/thermal_throttle/core_throttle_total_time_ms": 900,
            "sys/class/thermal/thermal_zone0/temp": 61_500,
            "sys/class/thermal/thermal_zone1/temp": -274_000,
            "sys/class/powercap/intel-rapl:0/name": "package-0",
            "sys/class/powercap/intel-rapl:0/energy_uj": 5_000_000,
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 10_000_000,
            "sys/class/powercap/intel-rapl:0:0/name": "core",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": 4_000_000,
            "sys/class/powercap/intel-rapl:1/name": "psys",
            "sys/class/powercap/intel-rapl:1/energy_uj": 9_000_000,
            "proc/stat": "cpu  100 0 20 300 10 0 5 15 7 0\ncpu0 50 0 10 150 5 0 2 8 0 0",
        },
    )


class Script:
    """A clock in ns that only sleeping, and the script, moves."""

    def __init__(self) -> None:
        self.now = 100 * S

    def clock(self) -> int:
        return self.now


def test_sensors_of_a_laptop(tmp_path: Path) -> None:
    sensors = Sensors(laptop(tmp_path))
    reading = sensors.read()
    assert (reading.mhz, reading.celsius, reading.throttled) == (2400.0, 61.5, 7)
    assert reading.ticks == (15, 450)
    assert reading.microjoules == (5_000_000,)
    assert sensors.rails == {"package-0": 10_000_000}  # neither a part of the package nor the board around it
    assert (sensors.governor, sensors.floor_mhz) == ("performance", 2500.0)
    tree(tmp_path, {f"{CPU}/cpu0/cpufreq/base_frequency": 1_900_000})
    assert Sensors(tmp_path).floor_mhz == 1900.0


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    reading = Sensors(tmp_path).read()
    assert (reading.mhz, reading.celsius, reading.throttled, reading.ticks, reading.microjoules) == (
        *(None, None, None, None, ()),
    )
    tree(tmp_path, {"proc/cpuinfo": "processor: 0\ncpu MHz\t\t: 1200.5\n\nprocessor: 1\ncpu MHz\t\t: 2596.1"})
    assert Sensors(tmp_path).read().mhz == 2596.1


@pytest.mark.parametrize("broken", ["", "cpu 1 2 3", "cpu a b c d e f g h", "intr 5"])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, broken: str) -> None:
    mhz = "cpu MHz:\ncpu MHz: unknown"
    tree(tmp_path, {"proc/stat": broken, "sys/class/thermal/thermal_zone0/temp": "hot", "proc/cpuinfo": mhz})
    reading = Sensors(tmp_path).read()
    assert (reading.mhz, reading.celsius, reading.ticks) == (None, None, None)


def watched(root: Path, steps: list[dict[str, object]], energy: bool = False) -> Watched:
    """One look at once, then one a second after each step; the window is from one second to the end."""
    script = Script()

    def sleep(seconds: float) -> None:
        script.now += round(seconds * S)
        tree(root, {"sys/class/powercap/intel-rapl:0/energy_uj": 7_000_000})  # 2 W while idling

    watch = Watch(energy, root, script.clock, sleep)
    with watch:
        began = script.now
        for step in steps:
            script.now += S
            tree(root, step)
            watch.look()
    return watch.told((began, script.now))


def test_a_steady_window(tmp_path: Path) -> None:
    clock = f"{CPU}/cpu1/cpufreq/scaling_cur_freq"
    seen = watched(laptop(tmp_path), [{clock: khz} for khz in (2_500_000, 2_450_000, 2_500_000)])
    assert seen.seconds[-1] == seen.lasted_s == 3.0
    assert set(seen.mhz) <= {2400.0, 2500.0, 2450.0}
    assert set(seen.celsius) == {61.5}
    assert (seen.throttle_events, seen.steal, seen.joules, seen.rails) == (0, None, None, ())
    told = conditions([seen])
    assert told["throttled"] is False
    assert "steal" not in told
    assert told["watch"]["celsius"] == [61.5, 61.5]


def test_a_counter_that_rises_is_throttling(tmp_path: Path) -> None:
    seen = watched(laptop(tmp_path), [{f"{CPU}/cpu1/thermal_throttle/core_throttle_count": 9}])
    assert seen.throttle_events == 5
    assert conditions([seen])["throttled"] is True


def slow(share: float, governor: str | None = "performance") -> Watched:
    mhz = tuple(1000.0 if index < 100 * share else 2000.0 for index in range(100))
    seconds = tuple(float(index) for index in range(100))
    return Watched(at=0, lasted_s=100, seconds=seconds, mhz=mhz, governor=governor, floor_mhz=2000.0)


def test_a_clock_that_falls_is_throttling_where_it_was_to_stay_up() -> None:
    assert conditions([slow(0.1)])["throttled"] is False
    assert conditions([slow(0.11)])["throttled"] is True
    assert conditions([slow(0.0), slow(0.5)])["throttled"] is True
    assert "throttled" not in conditions([slow(0.5, "powersave")])  # it may, and nothing counts what it must not
    assert "throttled" not in conditions([slow(0.5, None)])


def test_time_that_the_host_took(tmp_path: Path) -> None:
    after: dict[str, object] = {"proc/stat": "cpu  150 0 20 310 10 0 5 55 7 0"}
    seen = watched(laptop(tmp_path), [{}, after])
    assert seen.steal == pytest.approx(40 / 100)
    assert conditions([seen, slow(0)])["steal"] == pytest.approx(0.4)  # of the windows that tell


def test_energy_above_idling(tmp_path: Path) -> None:
    rail = "sys/class/powercap/intel-rapl:0/energy_uj"
    seen = watched(laptop(tmp_path), [{rail: 9_500_000}, {rail: 3_000_000}], energy=True)  # it began again at 10 J
    assert seen.idle_watts == pytest.approx(2.0)
    assert seen.joules == pytest.approx(2.5 + 3.5 - 2 * 2.0)
    number = energy([seen, seen], images=8)
    assert number.value == pytest.approx(0.5)
    assert (number.unit, number.n, number.better) == ("J/img", 8, "lower")
    assert conditions([seen])["watch"]["rails"] == ["package-0"]


def test_energy_that_is_not_told_is_no_number(tmp_path: Path) -> None:
    blind = watched(tmp_path, [{}], energy=True)
    assert blind.joules is None
    for windows in ([], [blind], [blind, blind.model_copy(update={"joules": 1.0})]):
        assert energy(windows, 5).value is None
        assert "RAPL" in str(energy(windows, 5).note)
    idle = blind.model_copy(update={"joules": -0.1})
    assert (energy([idle], 5).value, energy([idle], 5).note) == (None, "it took no more than idling did before")


def test_a_rail_that_does_not_answer_once_is_no_energy_and_a_counter_no_throttling(tmp_path: Path) -> None:
    rail, count = "sys/class/powercap/intel-rapl:{}/{}", f"{CPU}/cpu{{}}/thermal_throttle/core_throttle_count"
    laptop(tmp_path)
    tree(tmp_path, {rail.format(2, "name"): "package-1", rail.format(2, "energy_uj"): 100_000})
    silent: dict[str, object] = {rail.format(0, "energy_uj"): "", count.format(0): "", count.format(1): 6}
    seen = watched(tmp_path, [silent, {rail.format(0, "energy_uj"): 7_100_000}], energy=True)
    assert seen.rails == ("package-0", "package-1")
    assert (seen.joules, seen.throttle_events) == (None, None)  # not two events less than there were
    assert energy([seen], images=8).value is None


def test_energy_between_two_looks_goes_by_the_time(tmp_path: Path) -> None:
    script = Script()

    def sleep(seconds: float) -> None:
        script.now += round(seconds * S)

    watch = Watch(True, laptop(tmp_path), script.clock, sleep)
    with watch:
        began = script.now
        script.now += 2 * S
        tree(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": 9_000_000})
        watch.look()
    seen = watch.told((began + S // 2, began + S))  # a quarter of two seconds that took four joules, idling nothing
    assert seen.idle_watts == 0.0
    assert seen.joules == pytest.approx(1.0)


def test_a_trace_is_in_order_of_time_and_short_enough_to_draw() -> None:
    late, early = slow(0.0).model_copy(update={"at": 1000.0}), slow(1.0)
    drawn = trace([late, early])
    assert set(drawn) == {"seconds", "mhz"}
    assert len(drawn["seconds"]) == len(drawn["mhz"]) == 200
    assert drawn["seconds"] == sorted(drawn["seconds"])
    assert (drawn["seconds"][0], drawn["seconds"][-1]) == (0.0, 1099.0)
    assert (drawn["mhz"][0], drawn["mhz"][-1]) == (1000.0, 2000.0)
    many = [slow(0.5).model_copy(update={"at": 100.0 * index}) for index in range(7)]
    assert len(trace(many)["seconds"]) == 200
    assert trace([]) == {}
    unseen: dict[str, Any] = {"at": 0, "lasted_s": 0.01}
    assert trace([Watched(**unseen)]) == {}


def test_the_thread_looks_by_itself_and_ends(tmp_path: Path) -> None:
    watch = Watch(root=laptop(tmp_path))
    with watch:
        while len(watch.readings) < 3:
            pass
    looks = len(watch.readings)
    assert looks >= 4  # at the start, two and more by the thread, at the end
    assert not watch._thread.is_alive()
    moments = [at for at, _ in watch.readings]
    assert moments == sorted(moments)
