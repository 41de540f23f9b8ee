"""The seam in cuda-python (`cuda.bindings.driver`), which is a wheel for every Python and needs no compiler.

Its functions return a tuple whose first is a CUresult. Of 12.x and 13.x only the making of a context differs.
"""

import ctypes
import importlib
from contextlib import ExitStack
from typing import Any

import numpy as np

from kd2edge.edge.cuda.faults import OUT_OF_MEMORY, fault, out_of_memory
from kd2edge.edge.cuda.seam import Cuda, Event, Gpu, Graph, Stream
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError, first_line


class ByCudaPython(Cuda):
    package = "cuda-bindings"

    def __init__(self) -> None:
        self._cuda = importlib.import_module("cuda.bindings.driver")
        self.version = str(importlib.import_module("cuda.bindings").__version__)

    def _enter(self, held: ExitStack) -> Gpu:
        cuda = self._cuda
        try:
            self._done("cuInit", cuda.cuInit(0))
            served = int(self._done("cuDriverGetVersion", cuda.cuDriverGetVersion()))
            if served // 1000 < cuda.CUDA_VERSION // 1000:  # some of what is called later would not be there
                raise RuntimeError(f"it serves CUDA {served // 1000}.{served % 1000 // 10}")
            device = self._done("cuDeviceGet", cuda.cuDeviceGet(0))
            how = (None,) if cuda.CUDA_VERSION >= 13000 else ()
            context = self._done("cuCtxCreate", cuda.cuCtxCreate(*how, 0, device))
        except RuntimeError as error:  # no libcuda, or one without a function that this version asks for
            raise UserError(
                f"cuda-bindings {self.version} cannot use the NVIDIA driver: {first_line(error)}.",
                "its major version must not be above the CUDA version that nvidia-smi shows",
            ) from error
        held.callback(cuda.cuCtxDestroy, context)
        kinds = cuda.CUdevice_attribute
        major, minor = (
            self._done("cuDeviceGetAttribute", cuda.cuDeviceGetAttribute(kind, device))
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        name = self._done("cuDeviceGetName", cuda.cuDeviceGetName(256, device))
        return Gpu(name.split(b"\0")[0].decode(), (int(major), int(minor)), served)

    def memory(self) -> tuple[int, int]:
        free, total = self._done("cuMemGetInfo", self._cuda.cuMemGetInfo())
        return int(free), int(total)

    def device_buffer(self, size: int) -> int:
        answer = self._cuda.cuMemAlloc(size)
        if int(answer[0]) == OUT_OF_MEMORY:
            raise out_of_memory(size, self.memory())
        address = self._done("cuMemAlloc", answer)
        self.keep(lambda: self._cuda.cuMemFree(address))
        return int(address)

    def pinned_buffer(self, count: int) -> Floats:
        answer = self._cuda.cuMemHostAlloc(4 * count, 0)
        if int(answer[0]) == OUT_OF_MEMORY:
            raise out_of_memory(4 * count, None)
        address = self._done("cuMemHostAlloc", answer)
        self.keep(lambda: self._cuda.cuMemFreeHost(address))
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(int(address)))

    def stream(self) -> Stream:
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._done("cuStreamCreate", self._cuda.cuStreamCreate(flags))
        self.keep(lambda: self._cuda.cuStreamDestroy(stream))
        return stream

    def handle(self, stream: Stream) -> int:
        return int(stream)

    def upload(self, to: int, what: Floats, stream: Stream) -> None:
        self._done("cuMemcpyHtoDAsync", self._cuda.cuMemcpyHtoDAsync(to, what.ctypes.data, what.nbytes, stream))

    def download(self, to: Floats, what: int, stream: Stream) -> None:
        self._done("cuMemcpyDtoHAsync", self._cuda.cuMemcpyDtoHAsync(to.ctypes.data, what, to.nbytes, stream))

    def wait(self, stream: Stream) -> None:
        self._done("cuStreamSynchronize", self._cuda.cuStreamSynchronize(stream))

    def event(self) -> Event:
        event = self._done("cuEventCreate", self._cuda.cuEventCreate(0))
        self.keep(lambda: self._cuda.cuEventDestroy(event))
        return event

    def record(self, event: Event, stream: Stream) -> None:
        self._done("cuEventRecord", self._cuda.cuEventRecord(event, stream))

    def elapsed_ns(self, first: Event, last: Event) -> int:
        return round(1e6 * float(self._done("cuEventElapsedTime", self._cuda.cuEventElapsedTime(first, last))))

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._done("cuGraphLaunch", self._cuda.cuGraphLaunch(graph, stream))

    def free_graph(self, graph: Graph) -> None:
        self._done("cuGraphExecDestroy", self._cuda.cuGraphExecDestroy(graph))

    def _begin_capture(self, stream: Stream) -> None:
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._done("cuStreamBeginCapture", self._cuda.cuStreamBeginCapture(stream, mode))

    def _end_capture(self, stream: Stream) -> Any:
        return self._done("cuStreamEndCapture", self._cuda.cuStreamEndCapture(stream))

    def _instantiate(self, template: Any) -> Graph:
        return self._done("cuGraphInstantiate", self._cuda.cuGraphInstantiate(template, 0))

    def _drop(self, template: Any) -> None:
        self._done("cuGraphDestroy", self._cuda.cuGraphDestroy(template))

    def _done(self, call: str, answer: tuple[Any, ...]) -> Any:
        """What a call returned beside its CUresult: nothing, one thing or a tuple. Raises its fault."""
        code, *found = answer
        if code:
            failed, says = self._cuda.cuGetErrorString(code)
            raise fault(int(code), call, "" if failed or not says else says.decode())
        return found[0] if len(found) == 1 else tuple(found)
