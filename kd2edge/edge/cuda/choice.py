"""Which package speaks CUDA here: pycuda where it can be imported, else cuda-python."""

import ctypes

from kd2edge.edge.cuda.by_cuda_python import ByCudaPython
from kd2edge.edge.cuda.by_pycuda import LIBRARY, ByPycuda
from kd2edge.edge.cuda.seam import Cuda
from kd2edge.errors import UserError, first_line, install_command

PACKAGES: tuple[type[Cuda], ...] = (ByPycuda, ByCudaPython)


def open_cuda(label: str) -> Cuda:
    """A context, not yet entered. Raises `UserError`, in the words of `driver_fault`, where there can be none."""
    fault = driver_fault(label)
    if fault:
        raise UserError(fault)
    return _found()[0][0]


def driver_fault(label: str) -> str | None:
    """Why engines cannot run here, in one sentence with its mend; None if there are a driver and what speaks to it."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"{label} cannot run engines here: there is no NVIDIA driver. Install one until nvidia-smi answers."
    found, missing = _found()
    if found:
        return None
    return f"{label} runs engines through pycuda or cuda-python ({'; '.join(missing)}): {install_command('cuda')}"


def _found() -> tuple[list[Cuda], list[str]]:
    """The packages that can be imported, the best first, and why others cannot. pycuda cannot without its driver."""
    found: list[Cuda] = []
    missing: list[str] = []
    for package in PACKAGES:
        try:
            found.append(package())
        except (ImportError, OSError) as error:
            missing.append(f"{package.package}: {first_line(error)}")
    return found, missing
