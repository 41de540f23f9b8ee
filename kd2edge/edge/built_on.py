"""Where an engine was built, and why it does not run here: engines are bound to their TensorRT and to their GPU.

The GPU is asked through the CUDA driver alone (no context, no package): cuDeviceGetName, attributes 75 and 76 of
cuDeviceGetAttribute (compute capability), cuDriverGetVersion. The version of the kernel driver is in /proc.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kd2edge.errors import UserError

Fact = str | list[str] | None
MAJOR, MINOR = 75, 76
KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
BOARD = Path("/proc/device-tree/model")
AGAIN = "an engine runs with the TensorRT and on the GPU it was built for: export it again here (kd2edge export --trt)"


class Misfit(UserError):
    """An engine is sound, but was built for another machine than this one."""


def built_on(backend: str, tensorrt: str, compute_capabilities: Sequence[str] | None = None) -> dict[str, Fact]:
    """This machine as an engine sees it; what cannot be had is None.

    `compute_capabilities` are those that a TensorRT for RTX engine is built for (none named: its own default).
    """
    facts: dict[str, Fact] = {"backend": backend, "tensorrt": tensorrt, **_gpu()}
    facts |= {"driver": _kernel_driver(), "board": _board()}
    if compute_capabilities is not None:
        facts["compute_capabilities"] = list(compute_capabilities)
    return facts


def _gpu() -> dict[str, Fact]:
    facts: dict[str, Fact] = {"gpu": None, "sm": None, "cuda": None}
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return facts
    version, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuDriverGetVersion(ctypes.byref(version)) == 0:
        facts["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return facts
    major, minor = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetName(name, len(name), device) == 0:
        facts["gpu"] = name.value.decode(errors="replace")
    asked = ((major, MAJOR), (minor, MINOR))
    if not any(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) for value, attribute in asked):
        facts["sm"] = f"{major.value}.{minor.value}"
    return facts


def _kernel_driver() -> str | None:
    """ "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build ..." gives 540.4.0."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", KERNEL_DRIVER.read_text(errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def _board() -> str | None:
    """What a Jetson calls itself: the GPUs of all Orins have one name and SM, and not one size."""
    try:
        return BOARD.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def misfit(made: Mapping[str, object], here: Mapping[str, object]) -> tuple[str, str] | None:
    """Why an engine built on `made` does not run on `here`, as (sentence, hint); None if it may.

    Beside `built_on`'s, `made` may carry the build options "version_compatible" and "hardware_compatibility". A newer
    driver is no misfit; one whose CUDA has an older major version is.
    """
    if not made.get("backend") or not made.get("tensorrt"):
        return "Nothing says where this engine was built.", AGAIN
    if made["backend"] != here["backend"]:
        return f"The engine was built by the back end {made['backend']}, not by {here['backend']}.", AGAIN
    return _version_misfit(made, here) or _gpu_misfit(made, here) or _cuda_misfit(made, here)


def _version_misfit(made: Mapping[str, object], here: Mapping[str, object]) -> tuple[str, str] | None:
    old, new = str(made["tensorrt"]), str(here["tensorrt"])
    if old == new:
        return None
    forward = _numbers(old) <= _numbers(new) and _numbers(new)[0] - _numbers(old)[0] <= 1
    if made.get("version_compatible") is True and forward:
        return None
    return f"The engine was built with TensorRT {old}, here is {new}.", AGAIN


def _gpu_misfit(made: Mapping[str, object], here: Mapping[str, object]) -> tuple[str, str] | None:
    if made["backend"] == "tensorrt_rtx":
        return _rtx_misfit(made.get("compute_capabilities"), here.get("sm"))
    level, here_is = made.get("hardware_compatibility", "none"), f"here is {here.get('gpu')} (SM {here.get('sm')})"
    if level == "ampere_plus" and _numbers(str(here.get("sm"))) >= (8,):
        return None
    wanted = ("sm",) if level == "same_compute_capability" else ("sm", "gpu")
    if not all(made.get(fact) is not None and made.get(fact) == here.get(fact) for fact in wanted):
        return f"The engine was built for {made.get('gpu')} (SM {made.get('sm')}), {here_is}.", AGAIN
    if "gpu" in wanted and made.get("board") != here.get("board"):
        return f"The engine was built on {made.get('board')}, here is {here.get('board')}.", AGAIN
    return None


def _rtx_misfit(capabilities: object, sm: object) -> tuple[str, str] | None:
    """Of an engine of the default kind, for which none are named, RTX itself knows the GPUs."""
    named = [str(capability) for capability in capabilities] if isinstance(capabilities, (list, tuple)) else ["unknown"]
    if not named or str(sm) in named:
        return None
    return (
        f"The engine is for SM {', '.join(named)}, here is SM {sm}.",
        f"add {sm} to the target's compute_capabilities",
    )


def _cuda_misfit(made: Mapping[str, object], here: Mapping[str, object]) -> tuple[str, str] | None:
    old, new = made.get("cuda"), here.get("cuda")
    if old is None or new is None or _numbers(str(old))[:1] <= _numbers(str(new))[:1]:
        return None
    return f"The engine was built under CUDA {old}, the driver here knows {new}.", "install a newer NVIDIA driver"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)) or (-1,)
