"""TensorRT for RTX building for the GPU it stands on, whichever that is: its CURRENT, where a name is not known."""

from typing import Any

from kd2edge.edge.backends import tensorrt_rtx
from kd2edge.schema import Target


class ForThisGpu(tensorrt_rtx.TensorRTForRTX):
    """Says of the engine nothing about GPUs, as of one of the default kind: RTX itself then accepts or refuses it."""

    def for_devices(self, trt: Any, config: Any, target: Target) -> list[str]:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
        return []
