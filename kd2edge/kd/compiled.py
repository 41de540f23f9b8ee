"""torch.compile for the time of a stage: by a fixed rule, in place, and undone, so that exports see plain modules.

Backbones and necks are compiled; heads and losses, microseconds of a step, graphs read from ONNX files, and teachers
that are fused without it, are not. What learns is compiled for training only: in evaluation it computes as ever,
whatever the size of a batch.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from kd2edge.errors import UserError, first_line
from kd2edge.kd.fused import Fused
from kd2edge.kd.graph_net import GraphNet
from kd2edge.kd.net import Net

Mode = Literal["off", "on", "graphs"]
AS_IT_IS = GraphNet | Fused
ENOUGH = 5000
"""Steps from which a GPU's nets are compiled: of a minute's compiling 12 ms a step are to be won back. No GPU has been
measured yet."""


def resolve(
    wanted: Literal["auto", "off", "on", "graphs"], device: torch.device, steps: int, size: tuple[int, int]
) -> Mode:
    """What a recipe's `compile` comes to for a stage of so many steps on images of (H, W) pixels.

    `auto` never compiles for a processor: on one core with AVX-512 and bf16, of the steps of ResNet-20 at 32 pixels,
    ResNet-18 and MobileNetV2 at 64 and MobileFaceNet at 112 none became 1 % faster by it, at up to minutes of
    compiling; on two cores, beside a fused teacher, CIFAR's step does not either, and MobileFaceNet's by 3 %, won back
    after thousands of steps (the ablation of benchmarks/peers/training). Raises `UserError` for `graphs` without a GPU,
    and where compiling is asked for and cannot work.
    """
    if wanted == "auto":
        return "on" if device.type == "cuda" and steps >= ENOUGH and fault(device.type) is None else "off"
    if wanted == "graphs" and device.type != "cuda":
        raise UserError("train.compile=graphs is for NVIDIA GPUs.", "set train.compile=on, off or auto")
    if wanted != "off" and (found := fault(device.type)):
        raise UserError(
            f"torch.compile does not work here: {found}.", "install a C++ compiler, or set train.compile=off"
        )
    return wanted


@functools.cache
def fault(kind: str) -> str | None:
    """Why this machine cannot compile for a kind of device, None where it can: tried once, on one addition."""
    try:
        _load()
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=kind))
    except (RuntimeError, OSError) as error:
        return first_line(error)
    return None


@contextmanager
def nets(mode: Mode, *modules: nn.Module) -> Iterator[None]:
    """Compile the nets inside `modules` until the block ends; state dicts, hooks and types stay as they are.

    Every stage starts with nothing compiled, as a fresh process does, so that a resumed run computes the same bits.
    Raises `UserError` where the compiler fails within.
    """
    if mode == "off":
        yield
        return
    _load()
    torch._dynamo.reset()
    before = {part: part._compiled_call_impl for module in modules for part in _parts(module)}
    try:
        for part in before:
            part.compile(dynamic=False, mode="reduce-overhead" if mode == "graphs" else None)
            if any(parameter.requires_grad for parameter in part.parameters()):
                part._compiled_call_impl = _in_training(part, part._compiled_call_impl)
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = first_line(getattr(error, "inner_exception", error))
        raise UserError(f"torch.compile failed: {cause}.", "set train.compile=off") from error
    finally:
        for part, earlier in before.items():
            part._compiled_call_impl = earlier
        torch._dynamo.reset()


def begin_step(mode: Mode) -> None:
    """Before each forward pass of a step: CUDA graphs may then reuse the memory of the pass before."""
    if mode == "graphs":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _load() -> None:
    """Import the compiler, whose own use of what torch deprecates is not our users' affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._inductor.compile_fx")


def _parts(module: nn.Module) -> list[nn.Module]:
    """What is compiled of a module: backbone and neck of each net in it, or all of it where it has none."""
    found = [part for inner in module.modules() if isinstance(inner, Net) for part in (inner.backbone, inner.neck)]
    if not found and type(module).forward is not nn.Module.forward:
        found = [module]
    return [part for part in dict.fromkeys(found) if not any(isinstance(inner, AS_IT_IS) for inner in part.modules())]


def _in_training(part: nn.Module, compiled: Callable[..., Any] | None) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        assert compiled is not None
        return (compiled if part.training else part._call_impl)(*given, **named)

    return call
