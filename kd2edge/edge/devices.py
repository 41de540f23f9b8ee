"""Which machine a number was measured on, read from /proc and /sys, so that no number travels without its device.

Whatever a system does not tell is left out or null; nothing here fails. The instruction-set flags are kept because
they decide INT8 speed on a CPU: dot products of VNNI, AMX or the ARM dot-product extension.
"""

import os
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge import __version__
from kd2edge.edge import jetpack, nvml
from kd2edge.edge.sensors import text

FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
FREQUENCY = "sys/devices/system/cpu/cpu0/cpufreq"
IDENTITY = ("cpu", "cores", "flags", "board", "gpus")
GPU_IDENTITY = ("name", "sm", "memory_mib")  # told since GPUs are watched: compared where both reports tell it


def fingerprint(root: Path = Path("/")) -> dict[str, Any]:
    """The device as JSON values: cpu, cores, flags, memory_mib, board, gpus, and what else a timing depends on.

    `cores` are those this process may use; `load` is the average over one minute at the time of asking; `max_mhz` is
    what the governor allows the first core, `driver` NVIDIA's, `l4t` and `power_mode` a Jetson's, like what `jetpack`
    tells. `gpus` are names; `gpu_details` is what NVML tells of them, which it does of this machine alone. `root` is
    where /proc and the rest are looked for.
    """
    cpuinfo = _fields(root / "proc/cpuinfo")
    flags = cpuinfo.get("flags", cpuinfo.get("Features", "")).split()
    return {
        "cpu": cpuinfo.get("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_mib": _mebibytes(_fields(root / "proc/meminfo").get("MemTotal")),
        "board": text(root / "proc/device-tree/model"),
        "gpus": sorted(_gpus(root)),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load": _load(root),
        "container": _container(root),
        "governor": text(root / FREQUENCY / "scaling_governor"),
        "max_mhz": _megahertz(text(root / FREQUENCY / "scaling_max_freq")),
        "driver": _driver(text(root / "proc/driver/nvidia/version")),
        "l4t": text(root / "etc/nv_tegra_release"),
        "power_mode": text(root / "var/lib/nvpmodel/status"),
        "gpu_details": (nvml.described() if root == Path("/") else []) or None,
        **jetpack.described(root),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that may change a number, of those installed."""
    found = {"kd2edge": __version__, "numpy": np.__version__}
    for name in ("onnxruntime", "onnx", "tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def difference(here: dict[str, Any], there: dict[str, Any]) -> str | None:
    """What tells two fingerprints apart as devices, in words; None if timings on one may be held against the other."""
    unlike = [key for key in IDENTITY if here.get(key) != there.get(key)]
    told = [f"{key} {here.get(key)} against {there.get(key)}" for key in unlike]
    one, other = _gpu_identity(here), _gpu_identity(there)
    if "gpus" not in unlike and one and other and one != other:
        told.append(f"GPUs {one} against {other}")
    return "; ".join(told) or None


def _gpu_identity(device: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each GPU what no setting changes."""
    return [{key: gpu.get(key) for key in GPU_IDENTITY} for gpu in device.get("gpu_details") or []]


def _fields(path: Path) -> dict[str, str]:
    """The `key : value` lines of a file of /proc, the first of each key."""
    found: dict[str, str] = {}
    for line in (text(path) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _mebibytes(kibibytes: str | None) -> int | None:
    return int(kibibytes.split()[0]) // 1024 if kibibytes else None


def _megahertz(kilohertz: str | None) -> int | None:
    return int(kilohertz) // 1000 if kilohertz and kilohertz.isdecimal() else None


def _driver(told: str | None) -> str | None:
    """The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar ...`, else its first line."""
    line = (told or "").partition("\n")[0]
    found = re.search(r"\b\d+(?:\.\d+)+\b", line)
    return found[0] if found else line or None


def _gpus(root: Path) -> Iterable[str]:
    for path in root.glob("proc/driver/nvidia/gpus/*/information"):
        yield _fields(path).get("Model", path.parent.name)


def _load(root: Path) -> float | None:
    told = text(root / "proc/loadavg")
    return float(told.split()[0]) if told else None


def _container(root: Path) -> bool:
    """A hint, not a proof: the marks that Docker, Podman and Kubernetes leave."""
    marks = (root / ".dockerenv", root / "run/.containerenv")
    cgroup = text(root / "proc/1/cgroup") or ""
    return any(mark.exists() for mark in marks) or any(word in cgroup for word in ("docker", "kubepods", "containerd"))
