"""NVML by the real pynvml, on a library made for the test (`fake_nvml.c`): what is fake is the GPU behind it.

No real GPU was asked here; what one tells is looked at on a machine that has one (`test_gpu_sensors.py`).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kd2edge.edge import gpu_watch

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

SCRIPT = """
import ctypes, dataclasses, json, os, sys, time
from pathlib import Path
from kd2edge.edge import gpu_watch, nvml, watch
from kd2edge.edge.gpu_watch import GpuWatch

open_now = ctypes.CDLL("libnvidia-ml.so.1").fake_nvml_open
told = {}
for words in ("gpu", "jetson", "old", "hot", "set", "lost", "silent", "new", "self"):
    os.environ["FAKE_NVML"] = words
    found = nvml.open_gpu({})
    if isinstance(found, str):
        told[words] = {"why": found}
        continue
    gpu = {"name": found.name, "floor": found.floor_mhz, "rails": found.rails, "others": found.others()}
    now = [0]
    seen = GpuWatch(found, lambda: now[0])
    for _ in range(12):
        seen.look()
        now[0] += 100_000_000
    window = 0, 1_000_000_000
    saw = seen.told(window)
    found.close()
    told[words] = gpu | {
        "first": dataclasses.asdict(seen.readings[0][1]),
        "last": dataclasses.asdict(seen.readings[-1][1]),
        "joules": seen.joules(window),
        "watched": saw.model_dump(),
        "throttled": gpu_watch.throttled([saw], 0.1),
        "conditions": gpu_watch.conditions([saw]),
        "described": nvml.described(),
        "open": open_now(),
    }
os.environ["FAKE_NVML"] = "gpu"
began = time.perf_counter_ns()
with watch.Watch(gpu=True, energy=True, sleep=lambda seconds: time.sleep(0.02)) as live:
    while len(live.gpu.readings) < 6:
        time.sleep(0.01)
live_told = live.told((began, time.perf_counter_ns()))
told["live"] = {
    "told": live_told.model_dump(),
    "conditions": watch.conditions([live_told]),
    "energy": watch.energy([live_told], 10).model_dump(),
    "alive": live.gpu._thread.is_alive(),
}
os.environ["FAKE_NVML"] = "two"
chosen = {}
for name, environment in json.loads(sys.argv[1]).items():
    found = nvml.open_gpu(environment)
    chosen[name] = found if isinstance(found, str) else found.name
    if not isinstance(found, str):
        found.close()
told["two"] = {"chosen": chosen, "described": nvml.described(), "open": open_now()}
print(json.dumps(told))
"""
VISIBLE = {
    "none": {"CUDA_VISIBLE_DEVICES": ""},
    "index alone": {"CUDA_VISIBLE_DEVICES": "1"},
    "unset": {},
    "in order": {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    "uuid": {"CUDA_VISIBLE_DEVICES": "GPU-0000beef"},
    "no such uuid": {"CUDA_VISIBLE_DEVICES": "GPU-1"},
    "mig": {"CUDA_VISIBLE_DEVICES": "MIG-1"},
    "no such mig": {"CUDA_VISIBLE_DEVICES": "MIG-2"},
    "too many": {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What kd2edge sees of every GPU that the library plays, all from one process."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    path = os.pathsep.join([str(folder), os.environ.get("LD_LIBRARY_PATH", "")])
    package = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(VISIBLE)],
        env={**os.environ, "LD_LIBRARY_PATH": path, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_gpu_tells_its_clocks_power_and_who_else_computes_on_it(told: dict[str, Any]) -> None:
    gpu = told["gpu"]
    assert (gpu["name"], gpu["floor"], gpu["rails"]) == ("Fake L4", None, ["GPU board"])
    assert gpu["others"] == ["process 8", "trainer"]
    assert gpu["watched"]["floor_mhz"] == 2040  # the highest that was seen
    first = gpu["first"]
    assert (first["mhz"], first["memory_mhz"], first["celsius"], first["busy"]) == (2040, 6251, 64, 0.37)
    assert (first["reasons"], first["watts"], first["fault"]) == (["gpu_idle"], [], None)
    assert gpu["throttled"] is False
    assert gpu["joules"] == pytest.approx(10 * 0.7)  # ten looks later, 700 mJ each
    assert gpu["watched"]["watts"] == pytest.approx([7.0] * 11)
    assert gpu["open"] == 0  # every init has its shutdown


def test_who_asks_is_not_somebody_else(told: dict[str, Any]) -> None:
    assert told["self"]["others"] == ["process 8"]  # bench builds its engines in the process that looks


def test_a_description_for_the_fingerprint(told: dict[str, Any]) -> None:
    assert told["gpu"]["described"] == [
        {
            "name": "Fake L4",
            "sm": "8.9",
            "memory_mib": 23034,
            "driver": "580.65.06",
            "cuda": "13.0",
            "power_limit_w": 72.0,
            "max_sm_mhz": 2040,
            "clocks_locked": False,
            "persistence": True,
        }
    ]
    assert told["set"]["described"][0]["clocks_locked"] is True
    assert told["jetson"]["described"] == [
        {"name": "Orin (nvgpu)", "driver": "580.65.06", "cuda": "13.0"}
        | dict.fromkeys(["sm", "memory_mib", "power_limit_w", "max_sm_mhz", "clocks_locked", "persistence"])
    ]
    assert [one["name"] for one in told["two"]["described"]] == ["Fake L4", "Fake L4 number two"]


def test_what_is_not_supported_is_left_out(told: dict[str, Any]) -> None:
    jetson = told["jetson"]
    assert (jetson["rails"], jetson["floor"], jetson["others"]) == ([], None, None)
    assert {value for value in jetson["first"].values() if not isinstance(value, list)} == {None}
    assert (jetson["throttled"], jetson["joules"]) == (None, None)  # neither told nor guessed
    assert set(jetson["conditions"]) == {"looks", "name"}


def test_a_driver_of_before_has_power_alone(told: dict[str, Any]) -> None:
    old = told["old"]
    assert (old["first"]["microjoules"], old["first"]["watts"]) == ([], [70.0])
    assert old["first"]["reasons"] == ["gpu_idle"]
    assert old["joules"] == pytest.approx(70.0)  # one second


def test_heat_is_throttling_by_name(told: dict[str, Any]) -> None:
    hot = told["hot"]
    assert hot["watched"]["reasons"] == ["hw_thermal_slowdown", "sw_thermal_slowdown"]
    assert (hot["watched"]["slow"], hot["throttled"]) == (0.0, True)  # it never ran faster
    assert hot["conditions"]["mhz"] == [1360, 1360]


def test_a_clock_that_somebody_set_is_no_throttling(told: dict[str, Any]) -> None:
    mine = told["set"]
    assert mine["floor"] == 1500  # the application clock; 1200 is below 0.95 of it, and set too
    assert (mine["watched"]["slow"], mine["watched"]["reasons"], mine["throttled"]) == (0.0, [], False)


def test_a_reason_that_has_no_name_yet_is_throttling(told: dict[str, Any]) -> None:
    assert (told["new"]["watched"]["reasons"], told["new"]["throttled"]) == (["0x800"], True)


def test_a_gpu_that_falls_off_the_bus_is_a_fault_and_has_no_energy(told: dict[str, Any]) -> None:
    lost = told["lost"]
    assert lost["first"]["fault"] is None
    assert lost["last"]["fault"] == "the GPU stopped answering while it was watched: GPU is lost"
    assert (lost["last"]["mhz"], lost["joules"]) == (None, None)
    assert lost["conditions"]["fault"] == lost["last"]["fault"]
    assert lost["throttled"] is None  # the looks before were fine, and are not all
    assert lost["open"] == 0


def test_no_driver_is_a_sentence(told: dict[str, Any]) -> None:
    assert told["silent"] == {"why": "NVML: Driver Not Loaded"}


def test_the_gpu_that_cuda_sees_first(told: dict[str, Any]) -> None:
    chosen = told["two"]["chosen"]
    assert (chosen["in order"], chosen["uuid"], chosen["mig"]) == (
        "Fake L4 number two",
        "Fake L4 number two",
        "Fake L4",
    )
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in chosen["unset"]
    assert chosen["index alone"] == chosen["unset"]  # CUDA may number them otherwise
    assert chosen["none"] == "CUDA_VISIBLE_DEVICES='' leaves none of the 2 GPUs"
    assert "leaves none" in chosen["too many"]
    assert chosen["no such uuid"] == "there is no GPU GPU-1"
    assert chosen["no such mig"] == "NVML: Not Found"
    assert told["two"]["open"] == 0


def test_a_thread_watches_it_while_something_else_is_done(told: dict[str, Any]) -> None:
    live = told["live"]
    assert live["alive"] is False
    assert (live["told"]["gpu"]["name"], live["told"]["rails"]) == ("Fake L4", ["GPU board"])
    assert live["told"]["idle_watts"] > 0
    seen = live["conditions"]["watch"]
    assert (live["conditions"]["throttled"], seen["gpu"]["others"]) == (False, ["process 8", "trainer"])
    assert seen["rails"] == ["GPU board"]
    assert "RAPL" not in str(live["energy"]["note"])
    assert gpu_watch.EVERY_S < 0.1  # ten a second and more
