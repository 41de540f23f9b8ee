"""Whether this machine can do what a target asks: its runtime. What is `needed` decides, the rest is advice.

Facts: NVIDIA's notes of JetPack 6.2 (TensorRT 10.3, CUDA 12.6, Python 3.10), CUDA's minor-version compatibility (a
driver serves all of its major version), pip's own way to a source distribution (pycuda has no wheels).
"""

from collections.abc import Iterator
from functools import partial

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from kd2edge.edge import session_proof, suited_board
from kd2edge.edge.check import Check, failed, guarded
from kd2edge.edge.here import Here, gather
from kd2edge.errors import UserError, install_command
from kd2edge.schema import Target

FAULTY = {"10.2.0": "its builder asks for a library of Windows (ultralytics/ultralytics pull request 24367)"}
PYCUDA_ON_BOARD = (
    "sudo apt install build-essential python3-dev && PATH=/usr/local/cuda/bin:$PATH CPATH=/usr/local/cuda/include "
    "LIBRARY_PATH=/usr/local/cuda/lib64 pip install pycuda"
)


def examine(target: Target, here: Here | None = None) -> list[Check]:
    """Compare this machine with a target, one line each; it never raises. All of it runs on a board."""
    try:
        facts = here or gather(target)
    except Exception as error:
        return [failed("this machine", error, needed=True)]
    parts = (
        *(python, backend, tensorrt, numpy, gpu, driver, bindings, onnxruntime),
        *suited_board.PARTS,
    )
    return [check for part in parts for check in guarded(part.__name__, partial(part, target, facts), needed=True)]


def python(target: Target, here: Here) -> Iterator[Check]:
    if target.python is None:
        return
    fits = _within(here.python, target.python)
    mend = None if fits else f"use a Python {target.python}: TensorRT's binding is compiled for it"
    yield Check(
        name="python", says=_says(fits), detail=f"{here.python}, wanted {target.python}", mend=mend, needed=True
    )


def backend(target: Target, here: Here) -> Iterator[Check]:
    name = f"back end {target.backend}"
    if here.backend_fault is None:
        yield Check(name=name, says="ok", detail="models run here", needed=True)
        return
    mend = "sudo apt install nvidia-jetpack" if target.board and here.tensorrt is None else None
    yield Check(name=name, says="missing", detail=here.backend_fault, mend=mend, needed=True)


def tensorrt(target: Target, here: Here) -> Iterator[Check]:
    if not target.backend.startswith("tensorrt"):
        return
    name, wanted = "TensorRT", target.tensorrt or "any version"
    mend = "sudo apt install tensorrt python3-libnvinfer" if target.board else _extra(target)
    if here.tensorrt is None:
        yield Check(name=name, says="missing", detail=f"it does not import, wanted {wanted}", mend=mend, needed=True)
        return
    fault = next((why for bad, why in FAULTY.items() if _within(here.tensorrt, f"=={bad}.*")), None)
    if fault and target.backend == "tensorrt":
        yield Check(name=name, says="broken", detail=f"{here.tensorrt}: {fault}", mend=mend, needed=True)
        return
    fits = target.tensorrt is None or _within(here.tensorrt, target.tensorrt)
    detail = f"{here.tensorrt}, wanted {wanted}"
    yield Check(name=name, says=_says(fits), detail=detail, mend=None if fits else mend, needed=True)


def numpy(target: Target, here: Here) -> Iterator[Check]:
    """Two NumPys are laid out unlike: a binding compiled for the first misreads arrays of the second."""
    if here.numpy is None or here.tensorrt is None:
        return
    fits = not (here.numpy_1_only and _within(here.numpy, ">=2"))
    detail = (
        f"{here.numpy}; this TensorRT's binding is compiled for NumPy {'1 alone' if here.numpy_1_only else '1 and 2'}"
    )
    yield Check(name="numpy", says=_says(fits), detail=detail, mend=None if fits else "pip install 'numpy<2'")


def gpu(target: Target, here: Here) -> Iterator[Check]:
    if not target.gpu:
        return
    mend = "run it on the target's own device (--on ssh://user@host), or name another target"
    if here.sm is None:
        yield Check(name="GPU", says="missing", detail="CUDA finds none", mend=mend, needed=True)
        return
    wanted = (target.sm,) if target.sm else target.compute_capabilities
    fits = not wanted or here.sm in wanted
    detail = f"{here.gpu} (SM {here.sm}), wanted SM {' or '.join(wanted) or 'any'}"
    yield Check(name="GPU", says=_says(fits), detail=detail, mend=None if fits else mend, needed=True)


def driver(target: Target, here: Here) -> Iterator[Check]:
    if not target.gpu:
        return
    if here.cuda is None:
        install = "sudo apt install nvidia-jetpack" if target.board else "install NVIDIA's driver"
        yield Check(name="NVIDIA driver", says="missing", detail="no libcuda.so.1", mend=install, needed=True)
        return
    fits = here.cuda_toolkit is None or _major(here.cuda) >= _major(here.cuda_toolkit)
    came = f"TensorRT came with CUDA {here.cuda_toolkit}" if here.cuda_toolkit else "nothing tells TensorRT's CUDA"
    detail = f"{here.driver or 'version not told'}, serves CUDA {here.cuda}; {came}"
    mend = None if fits else f"install a driver that serves CUDA {_major(here.cuda_toolkit or '0')}"
    yield Check(name="NVIDIA driver", says=_says(fits), detail=detail, mend=mend, needed=True)


def bindings(target: Target, here: Here) -> Iterator[Check]:
    """Engines run through pycuda, or through cuda-python where it cannot be built: one of them is needed."""
    if not target.backend.startswith("tensorrt") or here.bindings is None:
        return
    pycuda, cuda_python = (here.bindings.get(name) for name in ("pycuda.driver", "cuda.bindings.driver"))
    none = pycuda is not None and cuda_python is not None
    if pycuda is None:
        yield Check(name="pycuda", says="ok", detail="imports", needed=True)
        return
    compiled = PYCUDA_ON_BOARD if target.board else "pip install pycuda"
    meanwhile = "cuda-python cannot serve either" if none else "cuda-python serves meanwhile"
    detail = f"{pycuda}; {meanwhile}"
    mend = f"{compiled}  # or at once: pip install cuda-bindings" if none else compiled
    yield Check(name="pycuda", says="missing", detail=detail, mend=mend, needed=none)


def onnxruntime(target: Target, here: Here) -> Iterator[Check]:
    """A session is opened and run: a list of available providers is no proof of a usable one."""
    if target.backend == "onnxruntime":
        yield session_proof.check()


def _extra(target: Target) -> str:
    extras = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
    return install_command(extras[target.backend]) if target.backend in extras else "pip install onnxruntime"


def _within(version: str, specifier: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion as error:
        raise UserError(f"{version!r} is no version") from error


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _says(fits: bool) -> str:
    return "ok" if fits else "broken"
