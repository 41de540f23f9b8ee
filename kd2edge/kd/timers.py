"""Moments of a training, and the seconds between them: the host's, or a GPU's, which runs behind the host.

A mark on a GPU is a CUDA event in the stream that computes: it happens when all that was asked before it is done, and
nobody waits for that.
"""

import time
from typing import Any, Protocol

import torch


class Timer(Protocol):
    """Marks moments, which may lie ahead, and tells the seconds between two that have happened."""

    def mark(self) -> Any: ...

    def happened(self, mark: Any) -> bool: ...

    def seconds(self, one: Any, other: Any) -> float: ...

    def wait(self) -> None:
        """Until every mark has happened."""


class Host:
    def mark(self) -> float:
        return time.perf_counter()

    def happened(self, mark: float) -> bool:
        return True

    def seconds(self, one: float, other: float) -> float:
        return other - one

    def wait(self) -> None:
        pass


class Gpu:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def happened(self, mark: Any) -> bool:
        return bool(mark.query())

    def seconds(self, one: Any, other: Any) -> float:
        return float(one.elapsed_time(other)) / 1e3

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)


def of(device: torch.device) -> Timer:
    return Gpu(device) if device.type == "cuda" else Host()
