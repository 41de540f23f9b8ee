"""TensorRT for RTX, from the package registry: builds engines without a GPU, for named compute capabilities.

So NVIDIA's own parser and builder can judge an exported graph in continuous integration. It is a product of its own:
what it accepts is strong evidence, not proof, for TensorRT on a Jetson. It has no SM 8.7 (Orin) and no SM 9.0.
"""

from typing import Any

from kd2edge.edge.built_on import Fact
from kd2edge.edge.trt_build import TrtBackend
from kd2edge.errors import UserError
from kd2edge.schema import Target


class TensorRTForRTX(TrtBackend):
    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    extra = "rtx"
    label = "TensorRT for RTX"

    def execution(self, trt: Any, engine: Any) -> Any:
        """With the kernels of a shape compiled before it is computed, not behind its back meanwhile.

        Else a free batch begins with slow kernels that fit all shapes, and a captured graph would keep them.
        """
        how = engine.create_runtime_config()
        how.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return engine.create_execution_context(how)

    def for_devices(self, trt: Any, config: Any, target: Target) -> list[str]:
        """Also, what its release notes (1.2) demand of an engine that is to be captured in a CUDA graph."""
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        wanted = [_capability(trt, capability) for capability in target.compute_capabilities]
        if wanted:
            config.num_compute_capabilities = len(wanted)
        for place, capability in enumerate(wanted):
            config.set_compute_capability(capability, place)
        return [_dotted(config.get_compute_capability(place).name) for place in range(len(wanted))]

    def refuse_device(self, target: Target, here: dict[str, Fact]) -> None:
        """Nothing: it builds for GPUs that are not here."""


def _capability(trt: Any, text: str) -> Any:
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    name = f"SM{text.replace('.', '')}"
    if name not in known:
        spelled = ", ".join(_dotted(n) for n in sorted(known, key=lambda n: int(n[2:])))
        raise UserError(f"This TensorRT for RTX builds nothing for compute capability {text}.", f"known: {spelled}")
    return getattr(trt.ComputeCapability, name)


def _dotted(name: str) -> str:
    """SM86 is 8.6, SM120 is 12.0."""
    return f"{name[2:-1]}.{name[-1]}"
