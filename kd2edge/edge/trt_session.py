"""Running an engine through pycuda: one explicit CUDA context, one stream, buffers of the profile's largest batch.

The context is the session's own and is popped and freed on exit, whatever happened; a leaked one would keep its
memory, and an 8 GB Orin shares that with the processor.
"""

import ctypes
import importlib
import importlib.util
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from kd2edge.edge.session import Floats
from kd2edge.errors import UserError


def driver_fault(label: str) -> str | None:
    """Why engines cannot run here, in one sentence with its mend; None if driver and pycuda are there."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"{label} cannot run engines here: there is no NVIDIA driver. Install one until nvidia-smi answers."
    if importlib.util.find_spec("pycuda") is None:
        return f"{label} runs engines through pycuda, which is not installed: pip install pycuda"
    return None


class TrtSession:
    """An engine with one float32 image input and one float32 output."""

    def __init__(self, trt: Any, logger: Any, path: Path, label: str) -> None:
        self._cuda = importlib.import_module("pycuda.driver")
        self._logger = logger
        with ExitStack() as held:
            device = self._enter_context(held)
            self._execution, engine = self._load(trt, path, label)
            held.callback(self.__dict__.pop, "_execution")
            self._input, self._output = self._names(trt, engine, path)
            self._allocate(held, tuple(engine.get_tensor_profile_shape(self._input, 0)[2]))
            self._held = held.pop_all()
        dynamic = engine.get_tensor_shape(self._input)[0] < 0
        self.fixed_batch = None if dynamic else self._largest[0]
        major, minor = device.compute_capability()
        self.provider = f"{label} on {device.name()} (SM {major}.{minor})"
        self.versions = {label: str(trt.__version__), "CUDA driver": str(self._cuda.get_driver_version())}

    def infer(self, x: Floats) -> Floats:
        if x.dtype != np.float32 or not self._execution.set_input_shape(self._input, x.shape):
            raise UserError(
                f"The engine takes up to {list(self._largest)} float32, it was given {list(x.shape)} {x.dtype}.",
                "bench with a batch of the target's profile",
            )
        shape = tuple(self._execution.get_tensor_shape(self._output))
        given, returned = self._host_in[: x.size], self._host_out[: int(np.prod(shape))]
        np.copyto(given, x.ravel())
        self._cuda.memcpy_htod_async(self._device_in, given, self._stream)
        if not self._execution.execute_async_v3(self._stream.handle):
            raise UserError(f"The engine failed: {self._said()}.")
        self._cuda.memcpy_dtoh_async(returned, self._device_out, self._stream)
        self._stream.synchronize()
        result: Floats = returned.reshape(len(x), -1).copy()
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _enter_context(self, held: ExitStack) -> Any:
        self._cuda.init()
        device = self._cuda.Device(0)
        context = device.make_context()
        held.callback(context.detach)
        held.callback(context.pop)
        return device

    def _load(self, trt: Any, path: Path, label: str) -> tuple[Any, Any]:
        engine = trt.Runtime(self._logger).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise UserError(
                f"{label} cannot load {path}: {self._said()}.",
                "an engine runs with the TensorRT version and on the GPU it was built for: export it again here",
            )
        return engine.create_execution_context(), engine

    def _names(self, trt: Any, engine: Any, path: Path) -> tuple[str, str]:
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(f"{path} has inputs {inputs} and outputs {outputs}.", "a model has one of each")
        for name in names:
            if engine.get_tensor_dtype(name) != trt.float32:
                raise UserError(f"{path}: {name!r} is not float32.", "keep input and output in float32, cast inside")
        return inputs[0], outputs[0]

    def _allocate(self, held: ExitStack, largest: tuple[int, ...]) -> None:
        self._largest = largest
        self._execution.set_input_shape(self._input, largest)
        shapes = largest, tuple(self._execution.get_tensor_shape(self._output))
        self._host_in, self._host_out = (self._cuda.pagelocked_empty((int(np.prod(s)),), np.float32) for s in shapes)
        self._stream = self._cuda.Stream()
        held.callback(lambda: [self.__dict__.pop(name) for name in ("_host_in", "_host_out", "_stream")])
        self._device_in, self._device_out = (self._cuda.mem_alloc(4 * int(np.prod(s))) for s in shapes)
        held.callback(self._device_in.free)
        held.callback(self._device_out.free)
        self._execution.set_tensor_address(self._input, int(self._device_in))
        self._execution.set_tensor_address(self._output, int(self._device_out))

    def _said(self) -> str:
        return self._logger.errors[0] if self._logger.errors else "it says nothing more"
