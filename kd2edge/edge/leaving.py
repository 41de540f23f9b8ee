"""How a worker process leaves: with its bench, should that be killed; by a status of its own where it cannot write.

A worker that outlived its bench would measure on beside the one that resumes it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.files import write_atomic

UNWRITABLE = os.EX_IOERR
PARENT = "KD2EDGE_BENCH"  # the environment variable that holds the bench's process id
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def leave_with_parent() -> None:
    """From now on be killed when the bench dies, and leave at once if it has. Does nothing but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
            raise SystemExit("the bench is gone")


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy, whole or not at all; leaves by `UNWRITABLE`, the reason on stderr, where there is no room."""
    whole = np.ascontiguousarray(array)

    def write(file: Any) -> None:  # numpy's own `save` drops the reason when a disk is full
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        file.write(whole.data)

    try:
        write_atomic(path, write)
    except UserError as error:
        _leave(error)


def tell(path: Path, text: str) -> None:
    """Write a text as `save` writes an array."""
    try:
        write_atomic(path, text.encode())
    except UserError as error:
        _leave(error)


def _leave(error: UserError) -> NoReturn:
    print(error.message, file=sys.stderr)
    raise SystemExit(UNWRITABLE)
