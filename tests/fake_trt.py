"""A stand-in for the module `tensorrt`, whose one engine multiplies on the device of `fake_cuda`.

Only what the session calls, under the names of the binding; what it puts on a stream goes through the stand-in for
libcuda, which runs it when the stream is waited for, and records it where the stream is captured.
"""

import weakref
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import Any

from tests.fake_cuda import Fake

Shape = tuple[int, ...]
KERNEL_NS = 50_000


@dataclass
class Engine:
    """Named tensors `x` [batch, 1, 2, 2] and `y` [batch, 4] with y = `by` x, of a profile from `smallest` to `largest`.

    `left` notes, for each execution context and then the engine, what was alive in CUDA when it was destroyed.
    """

    fake: Fake
    by: float = 2.0
    smallest: int = 1
    largest: int = 4
    dynamic: bool = True
    ns: int = KERNEL_NS
    dtype: str = "float32"
    inputs: str = "x"
    capturable: bool = True
    admits: bool = True  # that it was not captured, by refusing as TensorRT does
    loadable: bool = True
    contexts: int = 100  # as many execution contexts as there is room for
    refuses: bool = False
    enqueued: int = 0
    profiled: list[Any] = field(default_factory=list)
    left: list[dict[str, int]] = field(default_factory=list)

    def module(self) -> SimpleNamespace:
        def load(data: bytes) -> Any:
            assert data == b"engine"
            return Loaded(self) if self.loadable else None

        return SimpleNamespace(
            __version__="10.3.0",
            float32="float32",
            TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=load),
        )

    def destroyed(self) -> None:
        self.left.append(self.fake.alive())


class Loaded:
    """`ICudaEngine`."""

    num_io_tensors = 2

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        weakref.finalize(self, engine.destroyed)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.engine.inputs else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return self.engine.dtype

    def get_tensor_shape(self, name: str) -> Shape:
        batch = -1 if self.engine.dynamic else self.engine.largest
        return (batch, 1, 2, 2) if name == "x" else (batch, 4)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        assert (name, profile) == ("x", 0)
        return [(n, 1, 2, 2) for n in (self.engine.smallest, self.engine.smallest, self.engine.largest)]

    def create_execution_context(self) -> "Execution | None":
        if not self.engine.contexts:
            return None
        self.engine.contexts -= 1
        return Execution(self)


class Execution:
    """`IExecutionContext`, which keeps its engine."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.engine = loaded, loaded.engine
        self.batch = 0
        self.address: dict[str, int] = {}
        self.profiler: Any = None
        weakref.finalize(self, self.engine.destroyed)

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        fits = shape[1:] == (1, 2, 2) and self.engine.smallest <= shape[0] <= self.engine.largest
        self.batch = shape[0] if fits else self.batch
        return name == "x" and fits

    def get_tensor_shape(self, name: str) -> Shape:
        return (self.batch, 4) if name == "y" else (self.batch, 1, 2, 2)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine, count = self.engine, prod(self.get_tensor_shape("y"))
        if engine.refuses:
            return False
        engine.enqueued += 1
        if self.profiler is not None:
            engine.profiled.append(self.profiler)
        if not engine.capturable and engine.fake.driver.cuCtxSynchronize() and engine.admits:
            return False
        return engine.fake.kernel(stream, self.address["y"], self.address["x"], count, engine.by, engine.ns) == 0
