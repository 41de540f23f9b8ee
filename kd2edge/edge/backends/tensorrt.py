"""TensorRT 10.3 to 11: engines built on, and for, the GPU they run on; on a Jetson it comes with JetPack."""

from typing import Any

from kd2edge.edge.built_on import Fact
from kd2edge.edge.trt_build import TrtBackend
from kd2edge.edge.trt_versions import ELSEWHERE
from kd2edge.errors import UserError
from kd2edge.schema import Target


class TensorRT(TrtBackend):
    name = "tensorrt"
    module = "tensorrt"
    extra = "trt"
    label = "TensorRT"

    def for_devices(self, trt: Any, config: Any, target: Target) -> None:
        if target.compute_capabilities:
            raise UserError(
                "TensorRT builds for the GPU it stands on: compute_capabilities say nothing to it.",
                "take them out of the target, or use the back end tensorrt_rtx",
            )

    def refuse_device(self, target: Target, here: dict[str, Fact]) -> None:
        if target.sm is not None and here["sm"] not in (target.sm, None):
            raise UserError(
                f"TensorRT builds for the GPU it stands on: {here['gpu']} (SM {here['sm']}), "
                f"and the target has SM {target.sm}.",
                ELSEWHERE,
            )
