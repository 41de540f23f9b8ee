"""Three Jetsons as trees of /sys, /proc and /etc, for tests: what a board shows to anyone, no root asked.

None of it was recorded by us. Rails, hwmon names and units: kernel documentation of ina3221 and ina238, NVIDIA's Jetson
Linux Developer Guide r36 and r38 (Platform Power and Performance), and jetson-stats (jtop/core/power.py, pull request
900 for Thor's INA238). GPU clocks: jetson-stats (jtop/core/gpu.py), and reports of Thor's gpu-gpc-0 and bwmgr.
Over-current counters: NVIDIA's driver tegra234-oc-event.c ("soctherm_oc"). Values are of the order that the recorded
lines of tegrastats in `LINES` show: an Orin Nano and an AGX Orin of JetPack 6, a Thor of R38.4, one of JetPack 5.
"""

from collections.abc import Mapping
from pathlib import Path

HWMON, DEVFREQ, THERMAL = "sys/class/hwmon", "sys/class/devfreq", "sys/class/thermal"
CPU = "sys/devices/system/cpu/cpufreq"
LINES = {
    "jetson-orin-nano": (
        "08-24-2026 11:19:00 RAM 3172/6284MB (lfb 44x4MB) SWAP 0/3142MB (cached 0MB) "
        "CPU [6%@1510,6%@1510,10%@729,7%@729,29%@729,18%@729] EMC_FREQ 0%@2133 GR3D_FREQ 26%@[306] NVDEC off NVJPG off "
        "VIC_FREQ off APE 200 cpu@46.41C soc2@45.34C soc0@43.62C gpu@46.03C tj@46.41C soc1@44.38C "
        "VDD_IN 4900mW/5000mW VDD_CPU_GPU_CV 924mW/939mW VDD_SOC 1500mW/1600mW"
    ),
    "jetson-agx-orin": (
        "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU [14%@2188,5%@2112,"
        "8%@2035,14%@2201,46%@1267,47%@1267,2%@1267,10%@1267,4%@1036,5%@1036,6%@1036,10%@1036] EMC_FREQ 3%@2133 "
        "GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off NVJPG off NVJPG1 off VIC 36%@115 OFA off NVDLA0 off NVDLA1 off "
        "PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C soc0@49.093C tj@52.562C soc1@49.656C "
        "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW"
    ),
    "jetson-thor": (
        "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,1%@972,"
        "0%@972,0%@972,0%@972,0%@972,8%@972,0%@972,0%@972] EMC_FREQ 0%@2750 GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 "
        "NVENC1_FREQ @314 NVDEC0_FREQ @314 NVDEC1_FREQ @314 NVJPG0_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off "
        "APE 300 cpu@37.343C tj@38.875C soc012@37.468C gpu@38.875C soc345@37.406C VDD_GPU 1962mW/1962mW "
        "VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW"
    ),
    "jetpack 5": (
        "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729,0%@729] "
        "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C "
        "Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW "
        "VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
    ),
    "three values": (
        "10-01-2026 20:36:32 RAM 974/7546MB (lfb 6x4MB) SWAP 0/5821MB (cached 0MB) CPU [0%@729,0%@729] GR3D_FREQ 12% "
        "cpu@49.843C/49.843C gpu@50.875C/50.875C tj@50.875C/50.875C VDD_IN 4548mW/4548mW/4549mW "
        "VDD_CPU_GPU_CV 483mW/483mW/483mW VDD_SOC 1489mW/1489mW/1489mW"
    ),
}


def tree(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def ina3221(hwmon: int, rails: dict[str, tuple[int, int]]) -> dict[str, object]:
    """Up to three rails: name → (mV, mA)."""
    files: dict[str, object] = {f"{HWMON}/hwmon{hwmon}/name": "ina3221"}
    for place, (name, (volts, amperes)) in enumerate(rails.items(), 1):
        files |= {
            f"{HWMON}/hwmon{hwmon}/in{place}_label": name,
            f"{HWMON}/hwmon{hwmon}/in{place}_input": volts,
            f"{HWMON}/hwmon{hwmon}/curr{place}_input": amperes,
        }
    return files | {f"{HWMON}/hwmon{hwmon}/in7_label": "sum of shunt voltages"}


def gpu(name: str, now: int, lowest: int, highest: int, load: int | None = 420) -> dict[str, object]:
    """A devfreq in Hz. Its load is in thousandths."""
    clock = f"{DEVFREQ}/{name}"
    files: dict[str, object] = {f"{clock}/cur_freq": now, f"{clock}/min_freq": lowest, f"{clock}/max_freq": highest}
    return files | ({} if load is None else {f"{clock}/device/load": load})


def _common(model: str, release: str, mode: str, kilohertz: int, kibibytes: int) -> dict[str, object]:
    major, _, revision = release.partition(".")
    return {
        "proc/device-tree/model": f"{model}\0",
        "proc/meminfo": f"MemTotal: {kibibytes} kB\nMemAvailable: {kibibytes // 2} kB\nCmaTotal: 262144 kB",
        "etc/nv_tegra_release": f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64",
        "var/lib/nvpmodel/status": "pmode:0002",
        "etc/nvpmodel.conf": f"< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME={mode} >",
        f"{CPU}/policy0/scaling_min_freq": 729_600,
        f"{CPU}/policy0/scaling_max_freq": kilohertz,
        f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
        f"{THERMAL}/thermal_zone0/temp": 46_000,
        f"{THERMAL}/thermal_zone1/type": "gpu-thermal",
        f"{THERMAL}/thermal_zone1/temp": 48_500,
        f"{THERMAL}/thermal_zone8/type": "tj-thermal",
        f"{THERMAL}/thermal_zone8/temp": 49_250,
        f"{THERMAL}/cooling_device0/type": "pwm-fan",
        f"{THERMAL}/cooling_device0/cur_state": 2,  # a fan that turns is no throttling
        f"{THERMAL}/cooling_device1/type": "gpu-throttle-alert",
        f"{THERMAL}/cooling_device1/cur_state": 0,
        f"{HWMON}/hwmon0/name": "pwmfan",
        f"{HWMON}/hwmon0/pwm1": 102,
        f"{HWMON}/hwmon3/name": "soctherm_oc",
        f"{HWMON}/hwmon3/oc1_event_cnt": 0,
        f"{HWMON}/hwmon3/oc2_event_cnt": 0,
        f"{HWMON}/hwmon3/oc3_event_cnt": 5,
    }


def orin_nano(root: Path) -> Path:
    rails = {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 300), "VDD_SOC": (5000, 320)}
    model = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    common = _common(model, "36.4.3", "MAXN_SUPER", 1_728_000, 7_802_000)
    return tree(root, common | ina3221(1, rails) | gpu("17000000.gpu", 1_020_000_000, 306_000_000, 1_020_000_000))


def agx_orin(root: Path) -> Path:
    first = {"VDD_GPU_SOC": (19_000, 130), "VDD_CPU_CV": (19_000, 70), "VIN_SYS_5V0": (5000, 900)}
    second = {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 60)}
    common = _common("NVIDIA Jetson AGX Orin Developer Kit", "36.3", "MAXN", 2_201_600, 64_350_000)
    clock = gpu("17000000.ga10b", 1_300_500_000, 306_000_000, 1_300_500_000)
    return tree(root, common | ina3221(1, first) | ina3221(2, second) | clock)


def thor(root: Path) -> Path:
    rails = {"VDD_GPU": (12_000, 160), "VDD_CPU_SOC_MSS": (12_000, 490), "VIN_SYS_5V0": (5000, 1130)}
    carrier = {
        f"{HWMON}/hwmon4/name": "ina238",
        f"{HWMON}/hwmon4/in1_label": "VIN",
        f"{HWMON}/hwmon4/in1_input": 20_000,
        f"{HWMON}/hwmon4/curr1_input": 990,
        f"{HWMON}/hwmon4/power1_input": 19_780_000,  # uW
        f"{DEVFREQ}/bwmgr/cur_freq": 4_266_000_000,
    }
    common = _common("NVIDIA Jetson AGX Thor Developer Kit", "38.4.0", "120W", 2_601_000, 128_790_092)
    clock = gpu("gpu-gpc-0", 1_575_000_000, 315_000_000, 1_575_000_000, None)
    return tree(root, common | ina3221(1, rails) | carrier | clock)


BOARDS = {"jetson-orin-nano": orin_nano, "jetson-agx-orin": agx_orin, "jetson-thor": thor}
