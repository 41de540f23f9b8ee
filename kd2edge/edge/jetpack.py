"""How a Jetson is set up: its release, its power mode, its clocks and its fan, by files that anyone may read.

Releases are those of NVIDIA's JetPack archive; one that is not listed here is unknown rather than guessed.
"""

import re
from pathlib import Path
from typing import Any

from kd2edge.edge.jetson import CLOCK
from kd2edge.edge.sensors import number, text

JETPACK = {  # Jetson Linux -> JetPack
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",  # an update of packages that the archive does not list; as jetson-stats has it
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
MODE = re.compile(r"^< POWER_MODEL ID=(\d+) NAME=(\S+) >", re.MULTILINE)
POLICIES = "sys/devices/system/cpu/cpufreq/policy*"


def described(root: Path = Path("/")) -> dict[str, Any]:
    """`jetpack`, `power_mode_name`, `jetson_clocks` and `fan` (0..1 of full speed) as JSON values; null if not told."""
    return {
        "jetpack": JETPACK.get(release(root) or ""),
        "power_mode_name": power_mode(root),
        "jetson_clocks": clocks_fixed(root) if release(root) else None,
        "fan": _fan(root),
    }


def release(root: Path = Path("/")) -> str | None:
    """Jetson Linux, such as 36.4.3; None on what is no Jetson."""
    found = RELEASE.match(text(root / "etc/nv_tegra_release") or "")
    if found is None:
        return None
    revision = found[2] if "." in found[2] else f"{found[2]}.0"
    return f"{found[1]}.{revision}"


def power_mode(root: Path = Path("/")) -> str | None:
    """The name of the mode that nvpmodel is in, such as 15W or MAXN_SUPER; its number where it has no name."""
    mode = (text(root / "var/lib/nvpmodel/status") or "").removeprefix("pmode:")
    if not mode.isdecimal():
        return None
    names: dict[int, str] = {int(place): name for place, name in MODE.findall(text(root / "etc/nvpmodel.conf") or "")}
    return names.get(int(mode), str(int(mode)))


def clocks_fixed(root: Path = Path("/")) -> bool | None:
    """Whether `jetson_clocks` holds: every processor's and the GPU's lowest clock are the highest; None if not told.

    What the memory's clock does only root may read; `jetson_clocks` sets all of them or none.
    """
    ranges = [(path / "scaling_min_freq", path / "scaling_max_freq") for path in root.glob(POLICIES)]
    gpus = [path for path in root.glob("sys/class/devfreq/*") if CLOCK.fullmatch(path.name)]
    ranges += [(path / "min_freq", path / "max_freq") for path in gpus]
    told = [(number(low), number(high)) for low, high in ranges]
    if not gpus or len(ranges) == len(gpus) or any(None in pair for pair in told):
        return None
    return all(low == high for low, high in told)


def _fan(root: Path) -> float | None:
    for path in root.glob("sys/class/hwmon/hwmon*/name"):
        width = number(path.parent / "pwm1") if text(path) == "pwmfan" else None
        if width is not None:
            return round(width / 255, 2)
    return None
