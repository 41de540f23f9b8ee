"""The sensors of a real GPU, where there is one that NVML or sysfs knows."""

import time

import pytest

from kd2edge.edge import devices, gpus
from kd2edge.edge.watch import Watch, conditions

FOUND = gpus.find()
if isinstance(FOUND, str):
    pytest.skip(FOUND, allow_module_level=True)
FOUND.close()


def test_a_look_is_plausible() -> None:
    gpu = gpus.find()
    assert not isinstance(gpu, str)
    seen = gpu.read()
    gpu.close()
    assert seen.fault is None
    assert seen.mhz is None or 0 < seen.mhz <= 5000
    assert seen.celsius is None or 0 < seen.celsius < 120
    assert seen.busy is None or 0 <= seen.busy <= 1
    assert bool(gpu.rails) == bool(seen.watts or seen.microjoules)


def test_a_while_of_it_is_watched_and_has_its_energy() -> None:
    with Watch(energy=True, gpu=True) as watch:
        assert watch.gpu is not None
        began, seen = time.perf_counter_ns(), len(watch.gpu.readings)
        while len(watch.gpu.readings) < seen + 10:
            time.sleep(0.01)
    told = watch.told((began, time.perf_counter_ns()))
    assert told.gpu is not None
    assert (told.gpu.fault, told.gpu.why_not) == (None, None)
    assert len(told.gpu.seconds) >= 10
    assert (told.joules is None) == (not watch.gpu.gpu.rails)
    assert told.idle_watts is None or 0 < told.idle_watts < 2000
    assert conditions([told])["watch"]["gpu"]["name"] == told.gpu.name


def test_the_fingerprint_describes_it() -> None:
    seen = devices.fingerprint()
    assert seen["gpu_details"] or seen["board"]
    assert devices.difference(seen, devices.fingerprint()) is None
