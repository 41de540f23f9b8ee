"""Freed memory that is kept: no pages are asked for twice, and all is given back in the end."""

import ctypes
import resource
from pathlib import Path

import numpy as np
import pytest

from kd2edge.kd import heap

pytestmark = [
    pytest.mark.kd,
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt"),
]
PAGE = resource.getpagesize()


def step() -> None:
    """Blocks of many sizes, all of them written to and all freed."""
    blocks = [np.ones(size, np.uint8) for size in (1 << 16, 1 << 20, 3 << 20, 40 << 20)]
    del blocks


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_steps_ask_for_no_page_twice_and_the_outermost_block_gives_all_back() -> None:
    with heap.kept():
        step()
        before = faults()
        for _ in range(10):
            with heap.kept():
                step()
        assert faults() - before < 200  # its largest block alone has 10,240 pages
        within = resident()
    assert resident() < within - (30 << 20)


def fail() -> None:
    with heap.kept():
        step()
        raise KeyError(resident())


def test_memory_is_given_back_after_an_error_too() -> None:
    with pytest.raises(KeyError) as caught:
        fail()
    assert resident() < caught.value.args[0] - (30 << 20)
