"""A Jetson's GPU while it works, by sysfs alone: no root, no package. NVML on it tells next to nothing.

Rails are the channels of INA3221 and INA238 (kernel's hwmon documentation), by name as in NVIDIA's Jetson Linux
Developer Guide, "Platform Power and Performance": an Orin Nano or NX has its module's total in VDD_IN, an AGX Orin
none, but three rails that add up to it (VDDQ_VDD2_1V8AO is a part of VIN_SYS_5V0), a Thor the carrier's VIN. The GPU's
clock is a devfreq (17000000.gpu, .ga10b before JetPack 6, gpu-gpc-0 on Thor); over-current events are counted by the
kernel's tegra234-oc-event, and the alerts of heat are cooling devices.
"""

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from kd2edge.edge.sensors import ALIVE, GpuReading, number, text
from kd2edge.edge.tegrastats import Tegrastats

CLOCK = re.compile(r"(?:\d+\.)?(?:gpu|ga10b|gv11b)|gpu-gpc-0")
MEMORY = ("sys/class/devfreq/bwmgr/cur_freq", "sys/kernel/debug/bpmp/debug/clk/emc/rate")  # Thor; Orin, for root alone
ZONES = ("gpu-thermal", "tj-thermal")  # the GPU's own does not answer while its power is gated
TOTALS = (("VIN",), ("VDD_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class JetsonGpu:
    """A `Gpu` whose `rails` are what the module takes as a whole; none where they do not add up to it."""

    harmless: tuple[str, ...] = ()
    locked: tuple[str, ...] = ()

    def __init__(self, root: Path, clock: Path, fallback: Callable[[], Tegrastats | None]) -> None:
        self.name = clock.name
        self.clock = clock
        highest = number(clock / "max_freq")
        self.floor_mhz = highest / 1e6 if highest else None
        self.memory = next((root / path for path in MEMORY if number(root / path) is not None), None)
        self.zones = [zone for name in ZONES for zone in _typed(root, "thermal_zone*", (name,))]
        self.alerts = list(_typed(root, "cooling_device*", ("-alert",)))
        self.counters = sorted(_chip(root, "soctherm_oc", "oc*_event_cnt"))
        self.channels = channels(root)
        self.stats = None if total(self.channels) else fallback()
        self.rails = total(self.channels) or (total(self.stats.rails()) if self.stats else ())
        if self.stats and not self.rails:  # it would only take time from what is measured
            self.stats.close()
            self.stats = None

    def read(self) -> GpuReading:
        hertz, load = number(self.clock / "cur_freq"), number(self.clock / "device/load")
        memory = number(self.memory) if self.memory else None
        events = [number(path) for path in self.counters]
        states = [number(zone / "cur_state") for zone in self.alerts]
        on = tuple(str(text(zone / "type")) for zone, state in zip(self.alerts, states, strict=True) if state)
        return GpuReading(
            mhz=None if hertz is None else hertz / 1e6,
            memory_mhz=None if memory is None else memory / 1e6,
            celsius=next(_alive(self.zones), None),
            busy=None if load is None else load / 1000,
            watts=self._watts(),
            reasons=on if on or (states and None not in states) else None,
            events=sum(count or 0 for count in events) if events and None not in events else None,
            fault=None if hertz is not None else f"the GPU's clock in {self.clock} no longer answers",
        )

    def others(self) -> tuple[str, ...] | None:
        """Not told without root."""
        return None

    def close(self) -> None:
        if self.stats:
            self.stats.close()

    def _watts(self) -> tuple[float, ...]:
        if self.stats:
            told = self.stats.rails()
            watts = [told.get(rail) for rail in self.rails]
        else:
            watts = [self.channels[rail]() for rail in self.rails]
        return tuple(one for one in watts if one is not None) if None not in watts else ()


def open_gpu(root: Path, fallback: Callable[[], Tegrastats | None] = lambda: None) -> JetsonGpu | None:
    """The GPU that sysfs knows, or None. `fallback` makes what tells the rails where sysfs does not."""
    clock = next((path for path in sorted(root.glob("sys/class/devfreq/*")) if CLOCK.fullmatch(path.name)), None)
    return JetsonGpu(root, clock, fallback) if clock else None


def channels(root: Path) -> dict[str, Callable[[], float | None]]:
    """Every rail that may be read, by its label: a function that tells its watts now."""
    found: dict[str, Callable[[], float | None]] = {}
    for label in sorted((*_chip(root, "ina3221", "in[123]_label"), *_chip(root, "ina238", "in1_label"))):
        name, place = text(label), label.name[2]
        watts = _product(label.parent / f"in{place}_input", label.parent / f"curr{place}_input")
        if (label.parent / "power1_input").exists():
            watts = _power(label.parent / "power1_input")
        if name and name != "NC" and watts() is not None:
            found[name] = watts
    return found


def total(rails: Collection[str]) -> tuple[str, ...]:
    """The names of the rails that make up the whole of a module, of those there are; none where some are wanting."""
    return next((names for names in TOTALS if all(name in rails for name in names)), ())


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        volts, amperes = number(millivolts), number(milliamperes)
        return None if volts is None or amperes is None else volts * amperes / 1e6

    return watts


def _power(microwatts: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        found = number(microwatts)
        return None if found is None else found / 1e6

    return watts


def _chip(root: Path, name: str, files: str) -> Iterator[Path]:
    for path in root.glob("sys/class/hwmon/hwmon*/name"):
        if text(path) == name:
            yield from path.parent.glob(files)


def _typed(root: Path, kind: str, ends: tuple[str, ...]) -> Iterator[Path]:
    for path in sorted(root.glob(f"sys/class/thermal/{kind}/type")):
        if (text(path) or "").endswith(ends):
            yield path.parent


def _alive(zones: list[Path]) -> Iterator[float]:
    """Degrees of the zones that answer."""
    for zone in zones:
        milli = number(zone / "temp")
        if milli is not None and milli // 1000 in ALIVE:
            yield milli / 1000
