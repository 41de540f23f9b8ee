"""What Linux tells of a machine while it works: clocks, temperature, throttling, time that a host took, energy.

Files: cpufreq and thermal_throttle of each processor, thermal zones, /proc/stat (proc(5): ticks by what they went
to, the eighth kind stolen by the host of a virtual machine), powercap's RAPL packages. What is not there is None.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ALIVE = range(1, 150)  # degrees Celsius; a zone that is out of order tells -274 or 0
PROCESSOR = "sys/devices/system/cpu/cpu[0-9]*"


@dataclass(frozen=True)
class Reading:
    """One look: MHz of the fastest processor, °C of the hottest zone, and what has added up since the start.

    `throttled` counts events of all processors, `ticks` are (stolen, all), `microjoules` those of each rail. Where one
    counter of several did not answer there is none: a sum without it would have fallen.
    """

    mhz: float | None = None
    celsius: float | None = None
    throttled: int | None = None
    ticks: tuple[int, int] | None = None
    microjoules: tuple[int, ...] = ()


@dataclass(frozen=True)
class GpuReading:
    """One look at a GPU: MHz of its multiprocessors and of its memory, °C, the share of time it was busy in 0..1.

    Each rail tells either the `microjoules` that have added up or the `watts` of this moment; the other is empty.
    `reasons` say why the clock is not higher; `events` count throttling since the start. A `fault` is one sentence:
    the GPU no longer answers, and all else is unknown.
    """

    mhz: float | None = None
    memory_mhz: float | None = None
    celsius: float | None = None
    busy: float | None = None
    microjoules: tuple[int, ...] = ()
    watts: tuple[float, ...] = ()
    reasons: tuple[str, ...] | None = None
    events: int | None = None
    fault: str | None = None


class Gpu(Protocol):
    """A GPU that is looked at. `floor_mhz` is the clock it keeps unless it is throttled, where that is known, `rails`
    what its energy is of.

    Of `reasons`, those in `harmless` are no throttling; with one of `locked` a low clock is somebody's choice.
    """

    name: str
    floor_mhz: float | None
    rails: tuple[str, ...]
    harmless: tuple[str, ...]
    locked: tuple[str, ...]

    def read(self) -> GpuReading:
        """One look. It never raises: a GPU that is lost is a `fault`."""

    def others(self) -> tuple[str, ...] | None:
        """The programs that compute on the GPU now; None where that is not told."""

    def close(self) -> None: ...


class Sensors:
    """The sensors that there are under `root`, found once.

    `floor_mhz` is the clock that a processor that is not throttled keeps under the governor "performance": its base
    where that is told, since none is promised its turbo, else the highest allowed. `rails` has the name of each RAPL
    package that may be read, and the microjoules at which it begins again at 0.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.clocks = sorted(root.glob(f"{PROCESSOR}/cpufreq/scaling_cur_freq"))
        self.zones = sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))
        counters = sorted(root.glob(f"{PROCESSOR}/thermal_throttle/*_count"))
        self.counters = [path for path in counters if number(path) is not None]
        first = root / "sys/devices/system/cpu/cpu0/cpufreq"
        self.governor = text(first / "scaling_governor")
        khz = number(first / "base_frequency") or number(first / "scaling_max_freq")
        self.floor_mhz = khz / 1000 if khz else None
        packages = [path.parent for path in sorted(root.glob("sys/class/powercap/intel-rapl:*/energy_uj"))]
        self.packages = [path for path in packages if _is_package(path) and number(path / "energy_uj") is not None]
        self.rails = {
            str(text(path / "name")): number(path / "max_energy_range_uj") or 1 << 32 for path in self.packages
        }

    def read(self) -> Reading:
        celsius = [milli / 1000 for milli in numbers(self.zones) if milli // 1000 in ALIVE]
        events = list(numbers(self.counters))
        microjoules = tuple(numbers(path / "energy_uj" for path in self.packages))
        return Reading(
            mhz=self._mhz(),
            celsius=max(celsius, default=None),
            throttled=sum(events) if events and len(events) == len(self.counters) else None,
            ticks=self._ticks(),
            microjoules=microjoules if len(microjoules) == len(self.packages) else (),
        )

    def _mhz(self) -> float | None:
        if self.clocks:
            return max((khz / 1000 for khz in numbers(self.clocks)), default=None)
        lines = (text(self.root / "proc/cpuinfo") or "").splitlines()
        told = (line.partition(":")[2] for line in lines if line.startswith("cpu MHz"))
        return max((mhz for mhz in map(_decimal, told) if mhz is not None), default=None)

    def _ticks(self) -> tuple[int, int] | None:
        first = (text(self.root / "proc/stat") or "").partition("\n")[0].split()
        ticks = [int(field) for field in first[1:9] if field.isdigit()]  # what guests had is counted in user's
        return (ticks[7], sum(ticks)) if first[:1] == ["cpu"] and len(ticks) == 8 else None


def _is_package(path: Path) -> bool:
    """A socket; not a part of one, nor the whole board, which has the sockets in it."""
    return (text(path / "name") or "").startswith("package")


def numbers(paths: Iterable[Path]) -> Iterable[int]:
    return (value for value in map(number, paths) if value is not None)


def number(path: Path) -> int | None:
    """The whole number that a file holds; None where there is none, or no file that may be read."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None


def _decimal(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def text(path: Path) -> str | None:
    """What a file holds, stripped, without a device tree's final zero; None where it is empty or not to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n\t ") or None
    except OSError:
        return None
