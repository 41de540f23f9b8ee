"""`doctor`: what works on this machine, proved by trying it, and the one command that mends what does not.

With a target it is what that target asks for (see `kd2edge.edge.suited`, which a board runs by itself).
"""

import ctypes
import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from kd2edge import shelves
from kd2edge.drawers import read_target
from kd2edge.edge import devices, session_proof
from kd2edge.edge.check import Check, guarded, is_broken
from kd2edge.edge.suited import examine
from kd2edge.errors import install_command

FREE_GIB = 2.0  # a CPU torch takes one, a run some hundred MiB


def doctor(target: str | None = None) -> list[Check]:
    """Try everything kd2edge may use, or with a `target` compare this machine with what that one asks for.

    Nothing is started that needs a GPU. Raises `UserError` for a target that there is none of; nothing else.
    """
    if target is not None:
        return examine(read_target(target))
    return [check for part in PARTS for check in guarded(part.__name__.strip("_"), part)]


def base_is_broken(checks: list[Check]) -> bool:
    """Whether what is needed, for anything at all or for the target, is wanting."""
    return is_broken(checks)


def _python() -> Iterator[Check]:
    version = sys.version.split()[0]
    good = sys.version_info >= (3, 10)
    mend = None if good else "install Python 3.10 or newer and make the virtual environment again"
    yield Check(name="python", says="ok" if good else "broken", detail=version, mend=mend, needed=True)


def _packages() -> Iterator[Check]:
    found, absent = [], []
    for name in _requirements():
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        mend = f"pip install {' '.join(absent)}"
        yield Check(name="base packages", says="missing", detail=", ".join(absent), mend=mend, needed=True)
    else:
        yield Check(name="base packages", says="ok", detail=", ".join(found), needed=True)


def _requirements() -> list[str]:
    """The packages that this installation of kd2edge declares, its extras aside."""
    declared = metadata.requires("kd2edge") or []
    names = [re.match(r"[\w.-]+", line) for line in declared if "extra ==" not in line]
    return [name.group() for name in names if name]


def _onnxruntime() -> Iterator[Check]:
    yield session_proof.check()


def _processor() -> Iterator[Check]:
    machine = devices.fingerprint()
    flags = machine["flags"]
    fast = bool({"avx512_vnni", "avx_vnni", "asimddp"} & set(flags))
    detail = f"{machine['cpu']}, {machine['cores']} cores, {' '.join(flags) or 'no known flags'}"
    yield Check(name="processor", says="ok", detail=detail)
    wanting = "no VNNI: INT8 weights keep to 7 bits here and gain little speed"
    yield Check(
        name="INT8 dot products", says="ok" if fast else "missing", detail="in the processor" if fast else wanting
    )


def _torch() -> Iterator[Check]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        yield Check(name="torch", says="missing", detail="needed by distill", mend=install_command("train"))
        return
    product = torch.ones(2, 2, dtype=torch.bfloat16) @ torch.ones(2, 2, dtype=torch.bfloat16)
    bf16 = "bf16 computes" if float(product.sum()) == 8 else "bf16 does not compute: train.precision=fp32"
    yield Check(name="torch", says="ok", detail=f"{torch.__version__}, {torch.get_num_threads()} threads, {bf16}")


def _tensorrt_rtx() -> Iterator[Check]:
    yield _builder("tensorrt_rtx", "TensorRT for RTX", install_command("rtx"))


def _tensorrt() -> Iterator[Check]:
    on_board = Path("/etc/nv_tegra_release").exists()
    yield _builder("tensorrt", "TensorRT", "sudo apt install tensorrt" if on_board else install_command("trt"))


def _builder(module: str, label: str, mend: str) -> Check:
    """Whether engines can be built, which TensorRT for RTX does without a GPU."""
    try:
        trt: Any = importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError)
        return Check(name=label, says="missing" if absent else "broken", detail=str(error), mend=mend)
    try:
        trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    except Exception as error:
        detail = f"{trt.__version__}, but its builder does not start: {' '.join(str(error).split())}"
        return Check(name=label, says="broken", detail=detail, mend="nvidia-smi  # is there a driver?")
    return Check(name=label, says="ok", detail=f"{trt.__version__}, its builder starts")


def _driver() -> Iterator[Check]:
    mend = "install NVIDIA's driver, on a machine that has a GPU"
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        yield Check(
            name="NVIDIA driver", says="missing", detail="no libcuda.so.1: engines are built, not run", mend=mend
        )
        return
    status = cuda.cuInit(0)
    detail = "cuInit succeeds" if status == 0 else f"cuInit fails with error {status}"
    yield Check(
        name="NVIDIA driver", says="broken" if status else "ok", detail=detail, mend="nvidia-smi" if status else None
    )


def _pycuda() -> Iterator[Check]:
    try:
        version = importlib.import_module("pycuda").VERSION_TEXT
        importlib.import_module("pycuda.driver")
    except ImportError as error:
        yield Check(name="pycuda", says="missing", detail=f"runs engines ({error})", mend=install_command("trt"))
        return
    yield Check(name="pycuda", says="ok", detail=version)


def _backends() -> Iterator[Check]:
    from kd2edge.edge.session import open_backend

    for name in shelves.names(shelves.BACKENDS):
        fault = open_backend(name).available()
        detail = fault or "models run here"
        yield Check(name=f"back end {name}", says="missing" if fault else "ok", detail=detail)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = free >= FREE_GIB
    mend = None if enough else f"free {FREE_GIB - free:.1f} GiB, or work on another disk"
    yield Check(name="disk", says="ok" if enough else "missing", detail=f"{free:.1f} GiB free here", mend=mend)


PARTS = (
    *(_python, _packages, _onnxruntime, _processor, _torch),
    *(_tensorrt_rtx, _tensorrt, _driver, _pycuda, _backends, _disk),
)
