"""A back end without a runtime, for tests of what stands above the seam: fixed outputs, scripted latencies.

It is public, and kept off the shelf so that nobody can pick it by accident: its name is `kd2edge.edge.fake`.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import Self

from kd2edge.edge.session import Backend, Floats, readable
from kd2edge.schema import Target


class FakeSession:
    """Outputs are a fixed random projection of the pixels; each call moves the session's own clock, and no other."""

    provider = "FakeProvider"
    fixed_batch: int | None = None

    def __init__(self, dim: int = 8, latencies_ms: Sequence[float] = (1.0,)) -> None:
        self.versions = {"fake": "1"}
        self.dim = dim
        self.now_ns = 0
        self.closed = False
        self._latencies = cycle(latencies_ms)

    def clock(self) -> int:
        """Nanoseconds of scripted time, in the place of `time.perf_counter_ns`."""
        return self.now_ns

    def infer(self, x: Floats) -> Floats:
        self.now_ns += round(next(self._latencies) * 1e6)
        flat = x.reshape(len(x), -1)
        weights = np.random.default_rng(0).standard_normal((flat.shape[1], self.dim), np.float32)
        return flat @ weights

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


class FakeBackend(Backend):
    """Builds a copy of the file, opens any file that is there."""

    name = "fake"

    def __init__(self, dim: int = 8, latencies_ms: Sequence[float] = (1.0,)) -> None:
        self.dim, self.latencies_ms = dim, latencies_ms

    def available(self) -> str | None:
        return None

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        out.write_bytes(readable(onnx).read_bytes())
        return out

    def open(self, path: Path, target: Target) -> FakeSession:
        readable(path)
        return FakeSession(self.dim, self.latencies_ms)
