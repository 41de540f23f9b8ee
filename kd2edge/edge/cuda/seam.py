"""What running an engine needs of CUDA's driver API, whichever package speaks it.

A context of our own, made explicitly: leaving it releases, in reverse order, all that was made in it, and then itself.
A leaked one would keep its memory, and an 8 GB Orin shares that with the processor. Streams, events and graphs are the
package's own objects: nobody else looks into them. Whatever CUDA refuses is raised as a `UserError` (see `faults`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, TypeAlias

from typing_extensions import Self

from kd2edge.edge.session import Floats
from kd2edge.errors import UserError

Stream: TypeAlias = Any
Event: TypeAlias = Any
Graph: TypeAlias = Any


class Gpu(NamedTuple):
    """The device a context is on: `sm` is its compute capability, `driver` the CUDA version the driver serves."""

    name: str
    sm: tuple[int, int]
    driver: int


class Cuda(ABC):
    """A context on the first GPU, current in the thread that entered it."""

    package: ClassVar[str]  # what is imported, by its name at the package registry
    version: str
    gpu: Gpu

    def __enter__(self) -> Self:
        with ExitStack() as held:
            self._held = held
            self.gpu = self._enter(held)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def keep(self, release: Callable[[], object]) -> None:
        """Release something on leaving. What fails then, on a lost device say, hides nothing and stops nothing."""
        self._held.callback(_quietly, release)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """What `enqueue` puts on the stream, as a graph ready to be launched; `free_graph` is for the caller to call.

        Nothing of it is run. Whatever `enqueue` raises is raised, and the stream captures no longer. Raises
        `NotCaptured` if it does what cannot be captured.
        """
        self._begin_capture(stream)
        try:
            enqueue()
        except BaseException:
            with suppress(UserError):
                self._drop(self._end_capture(stream))
            raise
        template = self._end_capture(stream)
        try:
            return self._instantiate(template)
        finally:
            self._drop(template)

    @abstractmethod
    def _enter(self, held: ExitStack) -> Gpu:
        """Make a context current; its release goes to `held`."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Bytes that are free on the device, and all there are."""

    @abstractmethod
    def device_buffer(self, size: int) -> int:
        """The address of `size` new bytes on the device. Raises `OutOfMemory`."""

    @abstractmethod
    def pinned_buffer(self, count: int) -> Floats:
        """float32 [count] in host memory that the device copies from and to by itself. Raises `OutOfMemory`."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream, which does not wait for the default one."""

    @abstractmethod
    def handle(self, stream: Stream) -> int:
        """The CUstream itself, for TensorRT."""

    @abstractmethod
    def upload(self, to: int, what: Floats, stream: Stream) -> None:
        """Put a copy of pinned memory to the device on a stream."""

    @abstractmethod
    def download(self, to: Floats, what: int, stream: Stream) -> None:
        """Put a copy from the device to pinned memory on a stream."""

    @abstractmethod
    def wait(self, stream: Stream) -> None:
        """Until all that was put on a stream is done. What failed on the device is raised here at the latest."""

    @abstractmethod
    def event(self) -> Event:
        """A new event, with its time."""

    @abstractmethod
    def record(self, event: Event, stream: Stream) -> None:
        """Put an event on a stream."""

    @abstractmethod
    def elapsed_ns(self, first: Event, last: Event) -> int:
        """Nanoseconds on the device's clock, to half a microsecond or so, between events that have come to pass."""

    @abstractmethod
    def launch(self, graph: Graph, stream: Stream) -> None:
        """Put a graph on a stream."""

    @abstractmethod
    def free_graph(self, graph: Graph) -> None:
        """Forget a graph that nothing runs any more."""

    @abstractmethod
    def _begin_capture(self, stream: Stream) -> None: ...

    @abstractmethod
    def _end_capture(self, stream: Stream) -> Any: ...

    @abstractmethod
    def _instantiate(self, template: Any) -> Graph: ...

    @abstractmethod
    def _drop(self, template: Any) -> None: ...


def _quietly(release: Callable[[], object]) -> None:
    with suppress(UserError):
        release()
