"""This machine as a target sees it: all that an examination compares, gathered once, without the parts above the edge.

Nothing here fails or changes anything: what a system does not tell is None. A board runs this with the edge wing alone.
"""

import importlib
import mmap
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from kd2edge import keys
from kd2edge.edge import gpus, jetpack, jetson, trtexec
from kd2edge.edge.built_on import Fact, built_on
from kd2edge.edge.sensors import text
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.schema import Target

BINDINGS = ("pycuda.driver", "cuda.bindings.driver")
FIRST_NUMPY = b"numpy.core.multiarray"  # what pybind11 before 2.12, which knows NumPy 1 alone, looks for


@dataclass(frozen=True)
class Here:
    """Facts. `backend_fault` is the back end's own sentence; `bindings` are faults by a module's name, None if usable.

    `gpu`, `sm`, `cuda` (of the driver) and `driver` are as in `built_on`; `cuda_toolkit` is what TensorRT came with.
    `clocks_fixed` is told by a Jetson, `may_lock` says whether this user may fix a GPU's clocks; `others` compute on
    the GPU now, `rails` make up its power, `unseen` says why no GPU can be watched. Keys are names, None if unreadable.
    """

    python: str = ""
    numpy: str | None = None
    numpy_1_only: bool = False
    backend_fault: str | None = None
    tensorrt: str | None = None
    bindings: dict[str, str | None] | None = None
    gpu: str | None = None
    sm: str | None = None
    cuda: str | None = None
    driver: str | None = None
    cuda_toolkit: str | None = None
    dla_cores: int | None = None
    board: str | None = None
    release: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None
    clocks_fixed: bool | None = None
    memory_mib: int | None = None
    free_mib: int | None = None
    contiguous_mib: int | None = None
    rails: tuple[str, ...] = ()
    unseen: str | None = None
    others: tuple[str, ...] | None = None
    may_lock: bool = False
    trtexec: str | None = None
    disk_gib: float = 0.0
    private_keys: tuple[str, ...] | None = None
    trusted_keys: tuple[str, ...] | None = None


def gather(target: Target, root: Path = gpus.HERE) -> Here:
    """The facts that matter to a target. Libraries speak of this machine, whatever the `root` of its files."""
    watched = _watched(root) if target.gpu else {}  # first: TensorRT's builder computes on the GPU too
    fault = _backend_fault(target.backend)
    trt = _module(target.backend) if target.backend in ("tensorrt", "tensorrt_rtx") else None
    facts = built_on(target.backend, str(trt.__version__) if trt else "")
    memory = _memory(root)
    own, trusted = _keys()
    return Here(
        python=platform.python_version(),
        numpy=_version("numpy"),
        numpy_1_only=trt is not None and _wants_numpy_1(trt),
        backend_fault=fault,
        tensorrt=str(trt.__version__) if trt else None,
        bindings={name: _import_fault(name) for name in BINDINGS},
        cuda_toolkit=_toolkit(target, root),
        dla_cores=_dla_cores(trt) if trt else None,
        board=text(root / "proc/device-tree/model"),
        release=jetpack.release(root),
        jetpack=jetpack.described(root)["jetpack"],
        power_mode=jetpack.power_mode(root),
        clocks_fixed=jetpack.clocks_fixed(root),
        memory_mib=memory.get("MemTotal"),
        free_mib=memory.get("MemAvailable"),
        contiguous_mib=memory.get("CmaTotal"),
        may_lock=_may_lock(root),
        trtexec=trtexec.find(),
        disk_gib=shutil.disk_usage(Path.cwd()).free / 2**30,
        private_keys=own,
        trusted_keys=trusted,
        gpu=_word(facts["gpu"]),
        sm=_word(facts["sm"]),
        cuda=_word(facts["cuda"]),
        driver=_word(facts["driver"]),
        **watched,
    )


def _word(fact: Fact) -> str | None:
    return fact if isinstance(fact, str) else None


def _backend_fault(name: str) -> str | None:
    try:
        return open_backend(name).available()
    except (UserError, ImportError) as error:
        return str(error).splitlines()[0]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:  # a binding without its library may raise anything; the back end's own fault tells
        return None


def _import_fault(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _wants_numpy_1(trt: ModuleType) -> bool:
    """Whether the binding's library was compiled for NumPy 1, as that of 10.3 was and that of 11.4 was not."""
    library = sys.modules.get(f"{trt.__name__}_bindings.{trt.__name__}") or sys.modules.get(
        f"{trt.__name__}.{trt.__name__}"
    )
    path = Path(str(getattr(library, "__file__", "")))
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(FIRST_NUMPY) >= 0


def _dla_cores(trt: Any) -> int | None:
    try:
        return int(trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR)).num_DLA_cores)
    except Exception:  # no driver, or a build of TensorRT that knows no DLA
        return None


def _toolkit(target: Target, root: Path) -> str | None:
    """The CUDA that TensorRT came with: that of the board, elsewhere the one in a package's name (tensorrt-cu13-libs).

    What lies in /usr/local/cuda of another machine has nothing to do with it.
    """
    if target.board:
        told = text(root / "usr/local/cuda/version.json") or ""
        found = re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"(\d+\.\d+)', told)
        return found[1] if found else None
    package = target.backend.replace("_", "-")
    return next((f"{major}.0" for major in ("13", "12") if _version(f"{package}-cu{major}-libs")), None)


def _memory(root: Path) -> dict[str, int]:
    """MiB by the names of /proc/meminfo."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    return {name: int(kibibytes) // 1024 for name, kibibytes in lines}


def _may_lock(root: Path) -> bool:
    """As root, or where a GPU's devfreq is open to this user."""
    clocks = [path / "min_freq" for path in root.glob("sys/class/devfreq/*") if jetson.CLOCK.fullmatch(path.name)]
    return os.geteuid() == 0 or any(os.access(path, os.W_OK) for path in clocks)


def _watched(root: Path) -> dict[str, Any]:
    gpu = gpus.find(root)
    if isinstance(gpu, str):
        return {"unseen": gpu}
    try:
        return {"rails": gpu.rails, "others": gpu.others()}
    finally:
        gpu.close()


def _keys() -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Names of the private keys and of the trusted ones; None where they cannot be read."""
    try:
        found = keys.listed()
    except UserError:
        return None, None
    return tuple(key.name for key in found if key.private), tuple(key.name for key in found if key.trusted)
