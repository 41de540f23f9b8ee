"""NVIDIA's management library (package nvidia-ml-py): clocks, power, heat and throttle reasons of a discrete GPU.

A call that a GPU does not support, as most are on a Jetson, leaves its value out; any other error means that the GPU
is lost. Names of reasons are those of nvml.h, "clocks event reasons".
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kd2edge.edge.sensors import GpuReading

T = TypeVar("T")

REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
BOARD = "GPU board"


class NvmlGpu:
    """A `Gpu` by its NVML handle. `floor_mhz` is the application clock that somebody set, else None.

    Of a GPU that is divided (MIG) all is of the whole. NVML does not tell clocks locked by `nvidia-smi -lgc`, and many
    a card never reaches the highest clock it names.
    """

    harmless: tuple[str, ...] = ("gpu_idle", "applications_clocks_setting")
    locked: tuple[str, ...] = ("applications_clocks_setting",)

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle
        self.name = str(_told(nvml, nvml.nvmlDeviceGetName, handle) or "GPU")
        setting = _told(nvml, nvml.nvmlDeviceGetApplicationsClock, handle, nvml.NVML_CLOCK_SM)
        default = _told(nvml, nvml.nvmlDeviceGetDefaultApplicationsClock, handle, nvml.NVML_CLOCK_SM)
        self.floor_mhz = float(setting) if setting and default and setting != default else None
        self.counts = _told(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle) is not None
        power = self.counts or _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle) is not None
        self.rails: tuple[str, ...] = (BOARD,) if power else ()
        self._fault: str | None = None

    def read(self) -> GpuReading:
        if self._fault is None:
            try:
                return self._look()
            except self.nvml.NVMLError as error:
                self._fault = f"the GPU stopped answering while it was watched: {error}"
        return GpuReading(fault=self._fault)

    def others(self) -> tuple[str, ...] | None:
        nvml = self.nvml
        try:
            found = _told(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, self.handle)
            pids = None if found is None else [process.pid for process in found if process.pid != os.getpid()]
            return None if pids is None else tuple(sorted(_program(nvml, pid) for pid in pids))
        except nvml.NVMLError:
            return None

    def close(self) -> None:
        """Let go of the library, for this one GPU."""
        _let_go(self.nvml)

    def _look(self) -> GpuReading:
        nvml, handle = self.nvml, self.handle
        energy = _told(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle) if self.counts else None
        watched = self.rails and not self.counts
        milliwatts = _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle) if watched else None
        used = _told(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
        return GpuReading(
            mhz=_told(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            memory_mhz=_told(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            celsius=_told(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            busy=None if used is None else used.gpu / 100,
            microjoules=() if energy is None else (1000 * energy,),
            watts=() if milliwatts is None else (milliwatts / 1000,),
            reasons=_reasons(_bits(nvml, handle)),
        )


def open_gpu(environment: Mapping[str, str] = os.environ) -> NvmlGpu | str:
    """The GPU that CUDA's first device is, or one sentence saying why it cannot be watched. Close it after use."""
    nvml = _library()
    if isinstance(nvml, str):
        return nvml
    try:
        handle = _first(nvml, environment)
        found = handle if isinstance(handle, str) else NvmlGpu(nvml, handle)
    except nvml.NVMLError as error:
        found = f"NVML: {error}"
    if isinstance(found, str):
        _let_go(nvml)
    return found


def described() -> list[dict[str, Any]]:
    """What there is to know of each GPU as JSON values; empty where NVML does not answer. Nothing here fails."""
    nvml = _library()
    if isinstance(nvml, str):
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [_description(nvml, handle) for handle in handles]
    except nvml.NVMLError:
        return []
    finally:
        _let_go(nvml)


def _description(nvml: Any, handle: Any) -> dict[str, Any]:
    """Clocks are `locked` where the applications' differ from their default; null, where NVML does not tell."""
    sm = _told(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    cuda = _told(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    limit = _told(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    persistence = _told(nvml, nvml.nvmlDeviceGetPersistenceMode, handle)
    setting = _told(nvml, nvml.nvmlDeviceGetApplicationsClock, handle, nvml.NVML_CLOCK_SM)
    default = _told(nvml, nvml.nvmlDeviceGetDefaultApplicationsClock, handle, nvml.NVML_CLOCK_SM)
    return {
        "name": _told(nvml, nvml.nvmlDeviceGetName, handle),
        "sm": None if sm is None else f"{sm[0]}.{sm[1]}",
        "memory_mib": None if memory is None else memory.total // 2**20,
        "driver": _told(nvml, nvml.nvmlSystemGetDriverVersion),
        "cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "power_limit_w": None if limit is None else limit / 1000,
        "max_sm_mhz": _told(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
        "clocks_locked": None if setting is None or default is None else setting != default,
        "persistence": None if persistence is None else bool(persistence),
    }


def _library() -> Any:
    """The module, its library initialized; a sentence where there is none."""
    try:
        import pynvml
    except ImportError:
        return "no package nvidia-ml-py, which reads the clocks of NVIDIA GPUs"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML: {error}"
    return pynvml


def _let_go(nvml: Any) -> None:
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return  # it was lost already


def _first(nvml: Any, environment: Mapping[str, str]) -> Any:
    """CUDA's device 0 among those NVML numbers by their PCI bus, as CUDA does only if it is told to."""
    count = nvml.nvmlDeviceGetCount()
    name = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if name.startswith("MIG-"):
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(name))
    if name.startswith("GPU-"):
        handles = (nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count))
        return next((one for one in handles if nvml.nvmlDeviceGetUUID(one).startswith(name)), f"there is no GPU {name}")
    if not name.isdecimal() or int(name) >= count:
        return f"CUDA_VISIBLE_DEVICES={name!r} leaves none of the {count} GPUs"
    if count > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return (
            f"there are {count} GPUs: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES to the GPU-... of one"
        )
    return nvml.nvmlDeviceGetHandleByIndex(int(name))


def _told(nvml: Any, call: Callable[..., T], *given: Any) -> T | None:
    """What a call returns; None where this GPU, driver or user has no such value. Else raises `NVMLError`."""
    silent = (
        *(nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        *(nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT),
    )
    try:
        return call(*given)
    except nvml.NVMLError as error:
        if error.value in silent:
            return None
        raise


def _bits(nvml: Any, handle: Any) -> int | None:
    """Asked for by the name of CUDA 12.2, else by the one that drivers before it know."""
    found = _told(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    return _told(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) if found is None else found


def _reasons(bits: int | None) -> tuple[str, ...] | None:
    """The names of the bits that are set; one that has no name yet is told by its number."""
    if bits is None:
        return None
    known = tuple(name for bit, name in REASONS.items() if bits & bit)
    rest = bits & ~sum(REASONS)
    return (*known, hex(rest)) if rest else known


def _program(nvml: Any, pid: int) -> str:
    name = _told(nvml, nvml.nvmlSystemGetProcessName, pid)
    return (name or f"process {pid}").rsplit("/", 1)[-1]
