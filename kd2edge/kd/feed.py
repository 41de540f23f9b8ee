"""How images reach the step: from memory at once, else read some batches ahead, else resident where the step computes.

What is handed out, and in which order, is what was asked for, however long a read takes.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd2edge.data import Images, InMemory, Ints, Split

AHEAD = 4  # batches that wait, read, for the step
AHEAD_BYTES = 1 << 28  # and no more than these together, but for one batch that is larger
CHUNK = 1 << 26  # bytes that are copied to a GPU at once


class Feed:
    """Batches of one split, on one device.

    A split that is held decoded is indexed in the caller's thread: 64 images of 32 x 32 pixels take 20 µs there, and as
    long to ask another thread for. On a GPU it is copied there once, if it fits into half of the free memory. Any other
    split is read ahead by one thread, since a plug-in's `Split.read` need not bear two calls at a time; those of the
    shelf decode each call on several threads.
    """

    def __init__(self, data: Split, device: torch.device) -> None:
        self.data, self.device = data, device
        self._labels = torch.tensor(np.asarray(data.labels, np.int64), device=device)
        held = data.images if isinstance(data, InMemory) and type(data).read is InMemory.read else None
        self._resident = None if held is None or device.type == "cpu" else _resident(held, device)
        self.held = self._resident is not None or (device.type == "cpu" and type(held) is np.ndarray)  # and no memmap

    def batches(self, indices: Sequence[Ints]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """uint8 [N, H, W, C] and int64 [N] on the device, for each int64 [N] of positions, in order.

        Raises what `Split.read` raises, at the batch that met it. Closed early, it leaves no thread behind.
        """
        with closing(self._indexed(indices) if self.held else self._ahead(indices)) as images:
            for index, pixels in zip(indices, images, strict=True):
                yield pixels, self._labels.index_select(0, self._places(index))

    def _places(self, index: Ints) -> Tensor:
        return torch.from_numpy(np.array(index, np.int64)).to(self.device, non_blocking=True)

    def _indexed(self, indices: Sequence[Ints]) -> Generator[Tensor, None, None]:
        for index in indices:
            if self._resident is not None:
                yield self._resident.index_select(0, self._places(index))
            else:
                yield torch.from_numpy(self.data.read(index))

    def _ahead(self, indices: Sequence[Ints]) -> Generator[Tensor, None, None]:
        """Read by a thread while earlier ones are in use; for a GPU copied there by it, too, on a stream of its own."""
        waiting: deque[Future[_Sent]] = deque()
        rest, allowed = iter(indices), 1  # until the first has told how large they are
        send = _Sender(self.data, self.device)
        reader = ThreadPoolExecutor(1, "feed")
        try:
            while True:
                while len(waiting) < allowed and (index := next(rest, None)) is not None:
                    waiting.append(reader.submit(send, index))
                if not waiting:
                    return
                sent = waiting.popleft().result()
                allowed = max(1, min(AHEAD, AHEAD_BYTES // max(1, sent.images.nbytes)))
                while len(waiting) < allowed and (index := next(rest, None)) is not None:
                    waiting.append(reader.submit(send, index))
                yield sent.arrived()
        finally:
            reader.shutdown(wait=True, cancel_futures=True)


class _Sent:
    """Images on their way: on a GPU once `event` has happened on the stream that copies them."""

    def __init__(self, images: Tensor, event: torch.cuda.Event | None = None) -> None:
        self.images, self._event = images, event

    def arrived(self) -> Tensor:
        if self._event is not None:
            here = torch.cuda.current_stream(self.images.device)
            here.wait_event(self._event)
            self.images.record_stream(here)
        return self.images


class _Sender:
    """Reads images and, where they are wanted on a GPU, copies them there through pinned memory."""

    def __init__(self, data: Split, device: torch.device) -> None:
        self._data = data
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]

    def __call__(self, index: Ints) -> _Sent:
        images = _tensor(self._data.read(index))
        if self._stream is None:
            return _Sent(images)
        with torch.cuda.stream(self._stream):
            copy = images.pin_memory().to(self._stream.device, non_blocking=True)  # each thread has a current GPU
            return _Sent(copy, self._stream.record_event())


def _tensor(images: Images) -> Tensor:
    """Without a copy, unless the array is read-only, which no tensor can be."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())


def _resident(images: Images, device: torch.device) -> Tensor | None:
    """All of them on the GPU, where they fit into half of what is free there."""
    if images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return None
    resident = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, CHUNK // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        resident[start : start + rows] = _tensor(images[start : start + rows])
    return resident
