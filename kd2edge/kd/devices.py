"""Where training computes: the processor, or an NVIDIA GPU through CUDA; nets are there only while they train."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import nn

from kd2edge.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that a recipe asks for; `auto` is a GPU where there is one. Raises `UserError` where there is none."""
    present = torch.cuda.is_available()
    if wanted == "cuda" and not present:
        raise UserError(
            "There is no GPU that this torch can use.", "set train.device=auto, or install torch with CUDA and a driver"
        )
    return torch.device("cuda" if present and wanted != "cpu" else "cpu")


@contextmanager
def placed(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Modules on a device, channels last, until the block ends; then they are on the processor again.

    On a GPU cuDNN takes its deterministic kernels meanwhile: a resumed training repeats an uninterrupted one where
    torch's own kernels are deterministic, too, which for some gradients, as adaptive pooling's, they are not.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic
    cudnn.deterministic = True
    for module in modules:
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        cudnn.deterministic = before
        for module in modules:
            module.to("cpu")


def threads() -> int:
    """How many threads of the processor torch computes with."""
    return torch.get_num_threads()


def precision(wanted: str, device: torch.device) -> str:
    """`auto` resolved: bf16 where the device multiplies it in hardware, else fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capability = torch.backends.cpu.get_cpu_capability()
    fast = "AVX512" in capability and bool(torch.cpu._is_avx512_bf16_supported())
    return "bf16" if fast or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Within it torch computes in a precision as `precision` gives it; float32 stays where that needs it."""
    lower = precision != "fp32"
    return torch.autocast(device.type, DTYPES[precision] if lower else None, enabled=lower)
