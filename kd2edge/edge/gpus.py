"""Which GPU is watched while a GPU's target is measured: a Jetson's by sysfs, any other by NVML."""

from pathlib import Path

from kd2edge.edge import jetson, nvml, tegrastats
from kd2edge.edge.sensors import Gpu

HERE = Path("/")


def find(root: Path = HERE) -> Gpu | str:
    """The GPU, to be closed after use, or one sentence saying why none is watched. Libraries see no other `root`."""
    if root != HERE:
        return jetson.open_gpu(root) or "no GPU in sysfs"
    return jetson.open_gpu(root, tegrastats.begin) or nvml.open_gpu()
