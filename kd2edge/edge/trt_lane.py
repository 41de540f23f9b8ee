"""One execution context of an engine with a stream, buffers and events of its own; several make several streams.

Buffers are of the profile's largest batch. A CUDA graph holds what an enqueue puts on the stream, for the one shape it
was captured at: another shape is captured anew. TensorRT finishes what a new shape needs in the first enqueue after it,
which therefore comes before the capture.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np

from kd2edge.edge.cuda.faults import PLAIN, ROOM, NotCaptured
from kd2edge.edge.cuda.seam import Cuda, Graph, Stream
from kd2edge.edge.session import Floats, Stages
from kd2edge.errors import UserError

Shape = tuple[int, ...]


class Tensors(NamedTuple):
    """The engine's input and output by name, and the input's smallest and largest shapes."""

    input: str
    output: str
    smallest: Shape
    largest: Shape


class Lane:
    """In an entered `cuda`, which releases its buffers; the execution context is let go of before that, by `drop`.

    `make` makes an execution context. There is no other reference to it than `execution`: an error's traceback would
    keep it beyond the CUDA context that it needs to be destroyed.
    """

    def __init__(self, cuda: Cuda, make: Callable[[], Any], tensors: Tensors, said: Callable[[], str]) -> None:
        self._cuda, self._tensors, self._said = cuda, tensors, said
        self._stream: Stream = None
        self._graph: Graph = None
        self._shape: Shape = ()
        self.execution = make()
        try:
            self._allocate(cuda, tensors)
        except BaseException:
            self.drop()
            raise

    def _allocate(self, cuda: Cuda, tensors: Tensors) -> None:
        if self.execution is None:
            raise UserError(f"The engine has no room for an execution context: {self._said()}.", ROOM)
        self._set_shape(tensors.largest)
        if min(self._result) < 1:
            raise UserError(f"The engine's output is {list(self._result)}: its shape hangs on what it is given.")
        sizes = [prod(tensors.largest), prod(self._result)]
        self._host_in, self._host_out = (cuda.pinned_buffer(size) for size in sizes)
        self._device_in, self._device_out = (cuda.device_buffer(4 * size) for size in sizes)
        self._stream = cuda.stream()
        self._handle = cuda.handle(self._stream)
        self._events = [cuda.event() for _ in range(5)]
        for name, address in ((tensors.input, self._device_in), (tensors.output, self._device_out)):
            if not self.execution.set_tensor_address(name, address):
                raise UserError(f"The engine does not take the memory of {name!r}: {self._said()}.")
        self._take(tensors.largest)

    def begin(self, x: Floats, graph: bool) -> None:
        """Put copy in, computing and copy out on the stream; `finish` waits for them."""
        given = self._ready(x, graph)
        self._cuda.upload(self._device_in, given, self._stream)
        self._compute(graph)
        self._cuda.download(self._returned, self._device_out, self._stream)

    def finish(self) -> Floats:
        """What came of the batch that was begun, float32 [N, D], a copy."""
        self._cuda.wait(self._stream)
        result: Floats = self._returned.reshape(self._shape[0], -1).copy()
        return result

    def stages(self, x: Floats, graph: bool) -> Stages:
        """The same, with an event between one stage and the next.

        The batch is computed once before it is timed: the device is at work while the host asks for what is timed, and
        does not wait for it in between, as it does not for trtexec, which asks one batch ahead.
        """
        cuda, stream, events = self._cuda, self._stream, self._events
        given = self._ready(x, graph)
        cuda.record(events[0], stream)
        cuda.upload(self._device_in, given, stream)
        cuda.record(events[1], stream)
        self._compute(graph)
        cuda.record(events[2], stream)
        asked = time.perf_counter_ns()
        self._compute(graph)
        enqueue = time.perf_counter_ns() - asked
        cuda.record(events[3], stream)
        cuda.download(self._returned, self._device_out, stream)
        cuda.record(events[4], stream)
        cuda.wait(stream)
        h2d, _, compute, d2h = (cuda.elapsed_ns(*events[i : i + 2]) for i in range(4))
        return Stages(h2d, compute, d2h, enqueue)

    def drop(self) -> None:
        """Let go of the execution context, when nothing of it runs any more."""
        with suppress(UserError):
            if self._stream is not None:
                self._cuda.wait(self._stream)
        with suppress(UserError):
            self._forget()
        self.execution = None

    def _ready(self, x: Floats, graph: bool) -> Floats:
        """The batch in pinned memory, and all that has to be done once for its shape."""
        if x.dtype != np.float32 or x.shape != self._shape:
            self._take(self._checked(x))
        if graph and self._graph is None:
            self._capture()
        np.copyto(self._given, x.ravel())
        return self._given

    def _checked(self, x: Floats) -> Shape:
        if x.dtype == np.float32 and self._set_shape(x.shape):
            return x.shape
        if self._shape:
            self._set_shape(self._shape)
        low, high = list(self._tensors.smallest), list(self._tensors.largest)
        takes = f"{high}" if low == high else f"{low} up to {high}"
        raise UserError(
            f"The engine takes {takes} float32, it was given {list(x.shape)} {x.dtype}.",
            "bench with a batch of the target's profile",
        )

    def _set_shape(self, shape: Shape) -> bool:
        taken = bool(self.execution.set_input_shape(self._tensors.input, shape))
        self._result = tuple(self.execution.get_tensor_shape(self._tensors.output))
        return taken

    def _take(self, shape: Shape) -> None:
        self._forget()
        self._shape = shape
        self._given, self._returned = self._host_in[: prod(shape)], self._host_out[: prod(self._result)]

    def _compute(self, graph: bool) -> None:
        if graph:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue_or_tell()

    def _enqueue(self) -> None:
        if not self.execution.execute_async_v3(self._handle):
            raise UserError(f"The engine failed: {self._said()}.", "run it again; nvidia-smi shows the GPU")

    def _enqueue_captured(self) -> None:
        """TensorRT refuses where it does what may not be captured, as trtexec knows."""
        if not self.execution.execute_async_v3(self._handle):
            raise NotCaptured(f"This cannot be captured as a CUDA graph: {self._said()}.", PLAIN)

    def _enqueue_or_tell(self) -> None:
        try:
            self._enqueue()
        except UserError:
            self._cuda.wait(self._stream)  # a device that is lost says so here
            raise

    def _capture(self) -> None:
        self._enqueue_or_tell()
        self._cuda.wait(self._stream)
        self._graph = self._cuda.capture(self._stream, self._enqueue_captured)

    def _forget(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.free_graph(graph)
