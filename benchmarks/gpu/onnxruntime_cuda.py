"""onnxruntime on the GPU, where a build of it with CUDA is installed: what most people would deploy first."""

from pathlib import Path
from types import TracebackType

import numpy as np
import onnxruntime as ort
from typing_extensions import Self

from kd2edge.edge.session import Backend, Floats, readable
from kd2edge.errors import UserError
from kd2edge.schema import Target

CUDA = "CUDAExecutionProvider"


class OnCuda:
    """Copies are onnxruntime's own, from and to pageable memory. Falling back to the CPU is refused.

    Its options are as they come, so that FP32 may use TF32. CUDA's libraries are looked for where torch's wheels have
    them, before the system's.
    """

    fixed_batch = None

    def __init__(self, path: Path) -> None:
        ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self._session = ort.InferenceSession(str(path), options, providers=[CUDA])
        self.provider = self._session.get_providers()[0]
        if self.provider != CUDA:
            raise UserError(f"onnxruntime opened {path.name} on {self.provider}, not on {CUDA}.")
        self.versions = {"onnxruntime": str(ort.__version__)}
        self._name = self._session.get_inputs()[0].name

    def infer(self, x: Floats) -> Floats:
        return np.asarray(self._session.run(None, {self._name: x})[0], np.float32).reshape(len(x), -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session


class OnnxRuntimeCuda(Backend):
    name = "onnxruntime_cuda"

    def available(self) -> str | None:
        return None if CUDA in ort.get_available_providers() else "this onnxruntime has no CUDA provider"

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        return readable(onnx)

    def open(self, path: Path, target: Target) -> OnCuda:
        return OnCuda(readable(path))
