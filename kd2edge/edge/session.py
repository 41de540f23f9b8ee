"""The one seam between kd2edge and a runtime: a `Backend` builds and opens, a `Session` infers.

Everything above it speaks numpy, so that a fake back end can stand in for a device (see `fake.py`).
"""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from kd2edge import shelves
from kd2edge.errors import UserError
from kd2edge.schema import Target

Floats = npt.NDArray[np.float32]


class Session(Protocol):
    """A model ready to run. It is a context manager: what it holds on the device is freed on exit."""

    @property
    def provider(self) -> str:
        """What really runs the model, read back from the opened session, never from what was asked for."""

    @property
    def versions(self) -> dict[str, str]:
        """Package name → version of the runtime."""

    @property
    def fixed_batch(self) -> int | None:
        """The one batch size the model takes, or None where its batch is free (within the target's profile)."""

    def infer(self, x: Floats) -> Floats:
        """Embeddings or logits float32 [N, D] of images float32 [N, C, H, W].

        Raises `UserError` if the model does not take that shape.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Stages(NamedTuple):
    """What one batch took in ns: copy in, computing and copy out on the device's clock, to ask for it on the host's."""

    h2d: int
    compute: int
    d2h: int
    enqueue: int


@runtime_checkable
class Staged(Session, Protocol):
    """A session on a device of its own, which can say what it takes there stage by stage, and work on several streams.

    All raise `UserError` as `infer` does.
    """

    def stages(self, x: Floats, graph: bool) -> Stages:
        """What a batch takes, with all its kernels launched at once as a captured `graph`, or one by one.

        What has to be done once for a shape, such as the capture, is not in it; nor is the device's waiting for the
        host, since the batch is computed once ahead. Raises `UserError` where the model cannot be captured.
        """

    def open_streams(self, count: int) -> None:
        """Have at least so many streams, each with room for the largest batch; there is one to begin with."""

    def begin(self, x: Floats, stream: int) -> None:
        """Ask for a batch on a stream that has none, 0 <= stream < count."""

    def finish(self, stream: int) -> Floats:
        """Wait for what was begun on a stream: as `infer`."""


class Backend(ABC):
    """A runtime. It takes no options: what a device needs stands in the `Target`."""

    name: ClassVar[str]

    @abstractmethod
    def available(self) -> str | None:
        """None where a model can be run here; else one sentence saying why not, with the command that mends it."""

    @abstractmethod
    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        """Make the file that `open` takes from an ONNX file, at `out`; where nothing is to be built, return `onnx`.

        Raises `UserError` naming the node when the runtime refuses the graph.
        """

    @abstractmethod
    def open(self, path: Path, target: Target) -> Session:
        """Load a built file. Raises `UserError` when it is missing, damaged, or cannot run on this machine."""


def open_backend(name: str) -> Backend:
    """The back end of that name on the shelf (see `shelves.load`). Raises `UserError` if there is none."""
    return shelves.load(shelves.BACKENDS, name, Backend)()  # type: ignore[type-abstract]  # the shelf's are concrete


def readable(path: Path) -> Path:
    """`path` itself. Raises `UserError` if there is no such file."""
    if not path.is_file():
        raise UserError(f"There is no model file {path}.", "kd2edge export makes one")
    return path
