"""Memory that a step on the processor has freed stays with the process for the next one.

glibc hands large blocks back to the kernel at once, which then pages thousands of zeroed pages in anew in each step:
a tenth of a step's time and more at CIFAR's sizes. What is computed does not depend on it. mallopt(3).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h
NEVER = 2**31 - 1
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER, TOP_PAD: 64 << 20}
LEFT = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10}
"""What glibc itself comes to, by its own rule, once a block of 32 MB was freed."""

_open = 0


@contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory until the outermost such block ends, and then give it back; nothing where there is no glibc."""
    global _open
    _open += 1
    if _open == 1:
        _set(KEPT)
    try:
        yield
    finally:
        _open -= 1
        if _open == 0:
            _set(LEFT)


def _set(options: dict[int, int]) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        for name, value in options.items():
            library.mallopt(name, value)
        if options is LEFT:
            library.malloc_trim(ctypes.c_size_t(0))
