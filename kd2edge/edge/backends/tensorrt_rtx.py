"""TensorRT for RTX, from the package registry: builds engines without a GPU, for named compute capabilities.

So NVIDIA's own parser and builder can judge an exported graph in continuous integration. It is a product of its own:
what it accepts is strong evidence, not proof, for TensorRT on a Jetson. It has no SM 8.7 (Orin) and no SM 9.0.
"""

from typing import Any

from kd2edge.edge.trt_build import TrtBackend
from kd2edge.errors import UserError
from kd2edge.schema import Target


class TensorRTForRTX(TrtBackend):
    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    extra = "rtx"
    label = "TensorRT for RTX"

    def for_devices(self, trt: Any, config: Any, target: Target) -> None:
        wanted = [_capability(trt, capability) for capability in target.compute_capabilities]
        if wanted:
            config.num_compute_capabilities = len(wanted)
        for place, capability in enumerate(wanted):
            config.set_compute_capability(capability, place)


def _capability(trt: Any, text: str) -> Any:
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    name = f"SM{text.replace('.', '')}"
    if name not in known:
        spelled = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in sorted(known, key=lambda n: int(n[2:])))
        raise UserError(f"This TensorRT for RTX builds nothing for compute capability {text}.", f"known: {spelled}")
    return getattr(trt.ComputeCapability, name)
