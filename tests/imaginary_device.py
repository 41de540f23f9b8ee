"""A plug-in back end on an imaginary device: its stages are arithmetic, its clock is its own, its engines are copies.

An engine takes the batches of the target it was built for: what stands in the file after the model.
"""

from pathlib import Path

import numpy as np

from kd2edge.edge.cuda.faults import NotCaptured, OutOfMemory
from kd2edge.edge.fake import FakeSession
from kd2edge.edge.session import Backend, Floats, Stages, readable
from kd2edge.errors import UserError
from kd2edge.schema import Target

PLAIN_NS, GRAPH_NS, ENQUEUE_NS, LAUNCH_NS = 40_000, 30_000, 36_000, 2_000
STREAMS = 3


class ImaginarySession(FakeSession):
    """Two streams take half as long as one: a batch is done a `PLAIN_NS` after the one before it, two at a time."""

    provider = "Imaginary device"

    def __init__(self, span: tuple[int, int] = (1, 8), capturable: bool = True) -> None:
        super().__init__(dim=12)
        self.span, self.capturable = span, capturable
        self.fixed_batch = span[0] if span[0] == span[1] else None
        self.streams = 1
        self.begun: dict[int, Floats] = {}
        self.finished: list[int] = []

    def infer(self, x: Floats) -> Floats:
        if not self.span[0] <= len(x) <= self.span[1]:
            raise UserError(f"The engine takes {self.span}, it was given {len(x)}.")
        return super().infer(x)

    def stages(self, x: Floats, graph: bool) -> Stages:
        if graph and not self.capturable:
            raise NotCaptured("This cannot be captured as a CUDA graph: it waits.")
        self.infer(x)
        compute, enqueue = (GRAPH_NS, LAUNCH_NS) if graph else (PLAIN_NS, ENQUEUE_NS)
        return Stages(1_000 * len(x), compute * len(x), 500, enqueue)

    def open_streams(self, count: int) -> None:
        if count > STREAMS:
            raise OutOfMemory("The GPU is out of memory: asked for 1.0 MiB, 0 of 8 MiB are free.")
        self.streams = max(self.streams, count)

    def begin(self, x: Floats, stream: int) -> None:
        assert stream < self.streams
        assert stream not in self.begun
        self.begun[stream] = x

    def finish(self, stream: int) -> Floats:
        self.finished.append(stream)
        self.now_ns += PLAIN_NS // min(len(self.begun), 2)
        x = self.begun.pop(stream)
        return np.zeros((len(x), self.dim), np.float32)


class ImaginaryDevice(Backend):
    name = "imaginary"

    def available(self) -> str | None:
        return None

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        if target.batch.min == target.batch.max == 7:
            raise UserError("The builder knows no seven.")
        low, high = target.batch.min, target.batch.max
        out.write_bytes(readable(onnx).read_bytes() + f"\n{low} {high}".encode())
        return out

    def open(self, path: Path, target: Target) -> ImaginarySession:
        low, high = path.read_bytes().rsplit(b"\n", 1)[1].split()
        return ImaginarySession((int(low), int(high)))
