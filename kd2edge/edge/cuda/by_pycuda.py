"""The seam in pycuda, which is compiled against the driver where it is used.

It has no graphs: streams are captured through libcuda itself, by ctypes, on their handles. Its errors carry a text and
no code; the code is the one that libcuda has that text for.
"""

import ctypes
import importlib
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from kd2edge.edge.cuda.faults import fault, out_of_memory
from kd2edge.edge.cuda.seam import Cuda, Event, Gpu, Graph, Stream
from kd2edge.edge.session import Floats

LIBRARY = "libcuda.so.1"
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
UNKNOWN = 999  # CUDA_ERROR_UNKNOWN, the highest CUresult
POINTER, INT, FLAGS = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulonglong
PROTOTYPES: dict[str, tuple[type[Any], ...]] = {
    "cuStreamBeginCapture_v2": (POINTER, INT),
    "cuStreamEndCapture": (POINTER, POINTER),
    "cuGraphInstantiateWithFlags": (POINTER, POINTER, FLAGS),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuGraphExecDestroy": (POINTER,),
    "cuGraphDestroy": (POINTER,),
    "cuGetErrorString": (INT, POINTER),
}

P = ParamSpec("P")
R = TypeVar("R")
Method = Callable[Concatenate["ByPycuda", P], R]


def _in_words(method: Method[P, R]) -> Method[P, R]:
    """A method whose pycuda errors are raised as the seam's."""

    def spoken(self: "ByPycuda", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except self._cuda.Error as error:
            call, _, says = str(error).partition(" failed: ")
            raise fault(self._code(says), call, says) from error

    return spoken


class ByPycuda(Cuda):
    package = "pycuda"

    def __init__(self) -> None:
        """Raises `ImportError` where pycuda is not installed, and where there is no driver that suits it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the error says too
            self._cuda = importlib.import_module("pycuda.driver")
        self.version = str(importlib.import_module("pycuda").VERSION_TEXT)
        self._libcuda = _libcuda()

    @_in_words
    def _enter(self, held: ExitStack) -> Gpu:
        self._cuda.init()
        device = self._cuda.Device(0)
        context = device.make_context()
        held.callback(context.detach)
        held.callback(context.pop)
        return Gpu(device.name(), device.compute_capability(), self._cuda.get_driver_version())

    @_in_words
    def memory(self) -> tuple[int, int]:
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    @_in_words
    def device_buffer(self, size: int) -> int:
        try:
            allocation = self._cuda.mem_alloc(size)
        except self._cuda.MemoryError as error:
            raise out_of_memory(size, self.memory()) from error
        self.keep(allocation.free)
        return int(allocation)

    @_in_words
    def pinned_buffer(self, count: int) -> Floats:
        try:
            buffer: Floats = self._cuda.pagelocked_empty((count,), np.float32)
        except self._cuda.MemoryError as error:
            raise out_of_memory(4 * count, None) from error
        memory: Any = buffer.base
        self.keep(memory.free)
        return buffer

    @_in_words
    def stream(self) -> Stream:
        return self._owned(self._cuda.Stream(NON_BLOCKING))

    def handle(self, stream: Stream) -> int:
        return int(stream.thing.handle)

    @_in_words
    def upload(self, to: int, what: Floats, stream: Stream) -> None:
        self._cuda.memcpy_htod_async(to, what, stream.thing)

    @_in_words
    def download(self, to: Floats, what: int, stream: Stream) -> None:
        self._cuda.memcpy_dtoh_async(to, what, stream.thing)

    @_in_words
    def wait(self, stream: Stream) -> None:
        stream.thing.synchronize()

    @_in_words
    def event(self) -> Event:
        return self._owned(self._cuda.Event())

    @_in_words
    def record(self, event: Event, stream: Stream) -> None:
        event.thing.record(stream.thing)

    @_in_words
    def elapsed_ns(self, first: Event, last: Event) -> int:
        return round(1e6 * float(last.thing.time_since(first.thing)))

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._done("cuGraphLaunch", graph, self.handle(stream))

    def free_graph(self, graph: Graph) -> None:
        self._done("cuGraphExecDestroy", graph)

    def _begin_capture(self, stream: Stream) -> None:
        self._done("cuStreamBeginCapture_v2", self.handle(stream), THREAD_LOCAL)

    def _end_capture(self, stream: Stream) -> Any:
        template = ctypes.c_void_p()
        self._done("cuStreamEndCapture", self.handle(stream), ctypes.byref(template))
        return template

    def _instantiate(self, template: Any) -> Graph:
        graph = ctypes.c_void_p()
        self._done("cuGraphInstantiateWithFlags", ctypes.byref(graph), template, 0)
        return graph

    def _drop(self, template: Any) -> None:
        self._done("cuGraphDestroy", template)

    def _owned(self, thing: Any) -> "_Owned":
        owned = _Owned(thing)
        self.keep(owned.release)
        return owned

    def _done(self, call: str, *args: Any) -> None:
        code = int(getattr(self._libcuda, call)(*args))
        if code:
            raise fault(code, call, self._says(code))

    def _says(self, code: int) -> str:
        text = ctypes.c_char_p()
        known = self._libcuda.cuGetErrorString(code, ctypes.byref(text)) == 0
        return text.value.decode() if known and text.value else ""

    def _code(self, says: str) -> int:
        """The code libcuda has such a text for, which pycuda may have added to; "unknown" where it has none.

        Of several the longest: 800's begins that of 900.
        """
        texts = [(len(text), code) for code in range(1, UNKNOWN) if says.startswith(text := self._says(code)) and text]
        return max(texts, default=(0, UNKNOWN))[1]


class _Owned:
    """A stream or an event: pycuda destroys it with its last reference, for which there must still be a context."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def release(self) -> None:
        self.thing = None


def _libcuda() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    for name, kinds in PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = kinds, INT
    return library
