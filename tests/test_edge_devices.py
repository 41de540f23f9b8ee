"""The fingerprint: what a made-up machine says of itself, and that a machine which says nothing breaks nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge import __version__
from kd2edge.edge import devices
from tests.jetsons import BOARDS

X86 = """processor\t: 0
model name\t: Imaginary 9000
flags\t\t: fpu sse2 avx2 avx512_vnni amx_int8
processor\t: 1
model name\t: Imaginary 9000
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_x86_machine(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        proc__cpuinfo=X86,
        proc__meminfo="MemTotal:       16384000 kB\nMemFree: 1 kB\n",
        proc__loadavg="0.52 0.40 0.30 1/200 999\n",
        proc__driver__nvidia__gpus__0__information="Model: \t\t RTX 0\nIRQ: 1\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance\n",
    )
    seen = devices.fingerprint(root)
    assert seen["cpu"] == "Imaginary 9000"
    assert seen["flags"] == ["avx2", "avx512_vnni", "amx_int8"]
    assert seen["memory_mib"] == 16000
    assert seen["load"] == 0.52
    assert seen["gpus"] == ["RTX 0"]
    assert seen["governor"] == "performance"
    assert seen["container"] is False


def test_an_arm_board(tmp_path: Path) -> None:
    root = write(tmp_path, proc__cpuinfo=ARM)
    (root / "proc/device-tree").mkdir()
    (root / "proc/device-tree/model").write_bytes(b"Jetson Orin Nano\0")
    seen = devices.fingerprint(root)
    assert seen["board"] == "Jetson Orin Nano"
    assert seen["flags"] == ["asimd", "asimddp", "i8mm"]
    assert seen["cpu"]


@pytest.mark.parametrize("mark", ["run/.containerenv", ".dockerenv", "proc/1/cgroup"])
def test_a_container_leaves_a_mark(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).write_text("0::/kubepods/burstable\n")
    assert devices.fingerprint(tmp_path)["container"] is True


def test_what_slows_a_machine_and_is_not_the_machine(tmp_path: Path) -> None:
    told = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\nGCC version: 12.2.0\n"
    root = write(
        tmp_path,
        proc__driver__nvidia__version=told,
        sys__devices__system__cpu__cpu0__cpufreq__scaling_max_freq="2100000\n",
        etc__nv_tegra_release="# R36 (release), REVISION: 4.3\n",
        var__lib__nvpmodel__status="pmode:0002\n",
    )
    seen = devices.fingerprint(root)
    assert (seen["driver"], seen["max_mhz"]) == ("550.54.15", 2100)
    assert (seen["l4t"], seen["power_mode"]) == ("# R36 (release), REVISION: 4.3", "pmode:0002")
    assert devices.difference(seen, {**seen, "driver": "1", "max_mhz": 1, "power_mode": None}) is None
    odd = write(tmp_path, proc__driver__nvidia__version="a driver\n", **{
        "sys__devices__system__cpu__cpu0__cpufreq__scaling_max_freq": "<unknown>\n"
    })  # fmt: skip
    assert (devices.fingerprint(odd)["driver"], devices.fingerprint(odd)["max_mhz"]) == ("a driver", None)


def test_a_silent_machine(tmp_path: Path) -> None:
    seen = devices.fingerprint(tmp_path)
    assert (seen["memory_mib"], seen["load"], seen["board"], seen["gpus"]) == (None, None, None, [])
    assert json.loads(json.dumps(seen)) == seen


def test_this_machine_and_its_versions() -> None:
    assert devices.fingerprint()["cores"] >= 1
    assert devices.difference(devices.fingerprint(), devices.fingerprint()) is None
    found = devices.versions()
    assert found["kd2edge"] == __version__
    assert found["numpy"] == np.__version__
    assert "onnxruntime" in found


def test_what_makes_two_devices_differ(tmp_path: Path) -> None:
    one = devices.fingerprint(write(tmp_path, proc__cpuinfo=X86))
    assert devices.difference(one, {**one, "load": 9.0, "os": "other"}) is None
    assert devices.difference(one, {**one, "cpu": "Real 1"}) == "cpu Imaginary 9000 against Real 1"
    assert "flags" in str(devices.difference(one, {**one, "flags": []}))


def test_how_a_jetson_is_set_up_is_in_its_fingerprint(tmp_path: Path) -> None:
    seen = devices.fingerprint(BOARDS["jetson-orin-nano"](tmp_path))
    assert (seen["jetpack"], seen["power_mode_name"], seen["jetson_clocks"], seen["fan"]) == (
        "6.2",
        "MAXN_SUPER",
        False,
        0.4,
    )
    assert seen["board"].endswith("Orin Nano Engineering Reference Developer Kit Super")
    assert json.loads(json.dumps(seen)) == seen


OLD: dict[str, Any] = {
    "cpu": "Imaginary 9000",
    "cores": 4,
    "flags": [],
    "board": None,
    "gpus": ["RTX 0"],
    "driver": "550.54.15",
}


def test_a_report_of_before_gpus_were_described_stays_comparable() -> None:
    now = OLD | {"gpu_details": [{"name": "RTX 0", "sm": "8.6", "memory_mib": 8192, "persistence": True}], "fan": None}
    assert devices.difference(now, OLD) is None
    assert devices.difference(OLD, now) is None
    assert devices.difference(now, {**OLD, "gpus": ["RTX 1"]}) == "gpus ['RTX 0'] against ['RTX 1']"


def test_gpus_of_one_name_and_two_sizes_are_two_devices() -> None:
    small, large = (
        OLD | {"gpu_details": [{"name": "RTX 0", "sm": "8.6", "memory_mib": size, "persistence": True}]}
        for size in (8192, 12288)
    )
    assert "8192" in str(devices.difference(small, large))
    set_otherwise = {**small, "gpu_details": [{**small["gpu_details"][0], "persistence": False, "power_limit_w": 100}]}
    assert devices.difference(small, set_otherwise) is None  # a setting of the same device
