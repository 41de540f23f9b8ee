"""A Jetson's sensors, on trees of three boards (`jetsons.py`); no board was at hand."""

from pathlib import Path

import pytest

from kd2edge.edge import gpus, jetson
from kd2edge.edge.gpu_watch import GpuWatch, GpuWatched, throttled
from kd2edge.edge.jetson import JetsonGpu
from kd2edge.edge.watch import Watch, Watched, conditions, energy
from tests.jetsons import DEVFREQ, HWMON, THERMAL, agx_orin, ina3221, orin_nano, thor, tree

S = 1_000_000_000


def found(root: Path) -> JetsonGpu:
    gpu = gpus.find(root)
    assert isinstance(gpu, JetsonGpu)
    return gpu


def test_an_orin_nano_has_its_total_in_one_rail(tmp_path: Path) -> None:
    gpu = found(orin_nano(tmp_path))
    assert (gpu.name, gpu.floor_mhz, gpu.rails) == ("17000000.gpu", 1020.0, ("VDD_IN",))
    seen = gpu.read()
    assert (seen.mhz, seen.celsius, seen.busy, seen.watts) == (1020.0, 48.5, 0.42, (6.0,))
    assert (seen.reasons, seen.events, seen.memory_mhz, seen.fault) == ((), 5, None, None)
    assert set(jetson.channels(tmp_path)) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_an_agx_orin_has_its_total_in_three(tmp_path: Path) -> None:
    gpu = found(agx_orin(tmp_path))
    assert gpu.name == "17000000.ga10b"
    assert gpu.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")  # VDDQ_VDD2_1V8AO is in the last of them
    assert gpu.read().watts == pytest.approx((2.47, 1.33, 4.5))


def test_a_thor_has_its_total_at_the_carrier(tmp_path: Path) -> None:
    gpu = found(thor(tmp_path))
    assert (gpu.name, gpu.rails) == ("gpu-gpc-0", ("VIN",))
    seen = gpu.read()
    assert (seen.watts, seen.memory_mhz, seen.busy) == ((19.78,), 4266.0, None)
    (tmp_path / HWMON / "hwmon4/power1_input").unlink()
    assert found(tmp_path).read().watts == pytest.approx((19.8,))  # by volts and amperes


def test_rails_that_do_not_add_up_are_no_total(tmp_path: Path) -> None:
    agx_orin(tmp_path)
    (tmp_path / HWMON / "hwmon1/in2_label").unlink()
    gpu = found(tmp_path)
    assert (gpu.rails, gpu.read().watts) == ((), ())


def test_a_zone_whose_power_is_gated_leaves_the_junction(tmp_path: Path) -> None:
    root = tree(orin_nano(tmp_path), {f"{THERMAL}/thermal_zone1/temp": -256_000})
    assert found(root).read().celsius == 49.25
    (root / f"{THERMAL}/thermal_zone1/temp").unlink()
    assert found(root).read().celsius == 49.25


def test_what_is_no_jetson_has_no_gpu_in_sysfs(tmp_path: Path) -> None:
    tree(tmp_path, {f"{DEVFREQ}/15340000.vic/cur_freq": 729_600_000})
    assert gpus.find(tmp_path) == "no GPU in sysfs"


def test_a_clock_that_no_longer_answers_is_a_fault(tmp_path: Path) -> None:
    gpu = found(orin_nano(tmp_path))
    (tmp_path / DEVFREQ / "17000000.gpu/cur_freq").unlink()
    assert "no longer answers" in str(gpu.read().fault)


class Script:
    """A clock in ns that only sleeping, and the script, moves."""

    def __init__(self) -> None:
        self.now = 100 * S

    def clock(self) -> int:
        return self.now


def watched(root: Path, steps: list[dict[str, object]], idle: dict[str, object] | None = None) -> Watched:
    """A second of idling, then a step a second, each followed by a look; the window is that of the steps."""
    script = Script()

    def sleep(seconds: float) -> None:
        script.now += round(seconds * S)
        tree(root, idle or {})

    watch = Watch(True, root, script.clock, sleep, gpu=True)
    assert watch.gpu is not None
    watch.gpu._over.set()  # only the script looks
    with watch:
        began = script.now
        for step in steps:
            script.now += S
            tree(root, step)
            watch.look()
            watch.gpu.look()
    return watch.told((began, script.now))


AMPERES = f"{HWMON}/hwmon1/curr1_input"


def test_energy_is_the_area_under_the_power_above_idling_and_names_its_rail(tmp_path: Path) -> None:
    seen = watched(orin_nano(tmp_path), [{AMPERES: 2200}, {AMPERES: 3200}, {AMPERES: 3200}])
    assert seen.idle_watts == pytest.approx(6.0)  # 5 V times 1.2 A
    area = (6 + 11) / 2 + (11 + 16) / 2 + 16
    assert seen.joules == pytest.approx(area - 3 * 6.0)
    number = energy([seen, seen], images=10)
    assert number.value == pytest.approx(2 * (area - 18) / 10)
    told = conditions([seen])["watch"]
    assert (told["rails"], told["idle_watts"]) == (["VDD_IN"], [pytest.approx(6.0)])
    assert told["gpu"]["watts"] == pytest.approx([6.0, 16.0])


def test_the_three_rails_of_an_agx_orin_are_one_energy(tmp_path: Path) -> None:
    seen = watched(agx_orin(tmp_path), [{AMPERES: 230}])
    assert seen.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert seen.joules == pytest.approx(1.9 / 2)  # 19 V times 0.1 A more, by the end of a second


def test_a_rail_that_does_not_answer_once_is_no_energy(tmp_path: Path) -> None:
    seen = watched(agx_orin(tmp_path), [{AMPERES: ""}, {AMPERES: 230}])
    assert seen.joules is None
    number = energy([seen], images=10)
    assert (number.value, number.note) == (None, "no power rail of the GPU that could be read throughout")


def test_a_steady_jetson_is_not_throttled(tmp_path: Path) -> None:
    told = conditions([watched(orin_nano(tmp_path), [{}, {}])])
    assert told["throttled"] is False
    gpu = told["watch"]["gpu"]
    assert (gpu["mhz"], gpu["slow"], gpu["throttle_events"]) == ([1020.0, 1020.0], 0.0, 0)
    assert (gpu["celsius"], gpu["reasons"]) == ([48.5, 48.5], [])


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({f"{HWMON}/hwmon3/oc3_event_cnt": 6}, {"throttle_events": 1}),
        ({f"{THERMAL}/cooling_device1/cur_state": 1}, {"reasons": ["gpu-throttle-alert"]}),
        ({f"{DEVFREQ}/17000000.gpu/cur_freq": 960_000_000}, {"slow": 0.8}),
    ],
)
def test_over_current_heat_and_a_low_clock_are_throttling(
    tmp_path: Path, change: dict[str, object], seen: dict[str, object]
) -> None:
    told = conditions([watched(orin_nano(tmp_path), [change, {}, {}])])
    assert told["throttled"] is True
    assert told["watch"]["gpu"].items() >= seen.items()


def test_a_clock_that_is_low_in_a_tenth_of_the_looks_is_not(tmp_path: Path) -> None:
    clock = f"{DEVFREQ}/17000000.gpu/cur_freq"
    steps: list[dict[str, object]] = [{clock: 600_000_000}, {clock: 1_020_000_000}, *[{}] * 6]
    assert conditions([watched(orin_nano(tmp_path), steps)])["throttled"] is False  # one look of ten


def test_no_gpu_to_watch_says_why_and_decides_nothing(tmp_path: Path) -> None:
    seen = Watch(True, tmp_path, gpu=True)
    with seen:
        pass
    told = seen.told((seen.readings[0][0], seen.readings[-1][0]))
    assert (told.gpu.why_not if told.gpu else None) == "no GPU in sysfs"
    assert "throttled" not in conditions([told])
    assert conditions([told])["watch"]["gpu"] == {"looks": 0, "why_not": "no GPU in sysfs"}
    assert energy([told], 1).value is None


def test_a_processor_that_was_not_throttled_says_nothing_of_a_gpu_that_is_not_told() -> None:
    steady = Watched(at=0, lasted_s=1, throttle_events=0)
    assert conditions([steady])["throttled"] is False
    assert "throttled" not in conditions([steady.model_copy(update={"gpu": GpuWatched(why_not="no GPU")})])
    hot = {"throttle_events": 1, "gpu": GpuWatched(why_not="no GPU")}
    assert conditions([steady.model_copy(update=hot)])["throttled"] is True


def test_one_window_that_does_not_tell_leaves_the_others_undecided() -> None:
    fine, silent, low = GpuWatched(slow=0.0), GpuWatched(), GpuWatched(slow=0.5)
    assert throttled([fine, fine], 0.1) is False
    assert throttled([fine, silent], 0.1) is None
    assert throttled([silent, low], 0.1) is True
    assert throttled([GpuWatched(reasons=(), fault="it is lost")], 0.1) is None


def test_an_alert_that_does_not_answer_is_no_all_clear(tmp_path: Path) -> None:
    gpu = found(orin_nano(tmp_path))
    (tmp_path / THERMAL / "cooling_device1/cur_state").unlink()
    assert gpu.read().reasons is None


def test_one_look_encloses_no_energy(tmp_path: Path) -> None:
    watch = GpuWatch(found(orin_nano(tmp_path)), Script().clock)
    watch.look()
    assert watch.joules((0, 1)) is None


def test_a_channel_that_is_not_connected_is_none(tmp_path: Path) -> None:
    tree(tmp_path, ina3221(1, {"NC": (5000, 1), "VDD_IN": (5000, 1000)}))
    assert {name: watts() for name, watts in jetson.channels(tmp_path).items()} == {"VDD_IN": 5.0}


def test_an_interruption_while_idling_lets_go_of_the_gpu(tmp_path: Path) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    watch = Watch(True, orin_nano(tmp_path), sleep=interrupted, gpu=True)
    assert watch.gpu is not None
    with pytest.raises(KeyboardInterrupt), watch:
        pass
    assert not watch.gpu._thread.is_alive()
