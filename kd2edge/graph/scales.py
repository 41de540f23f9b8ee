"""The arithmetic of 8-bit quantization: x ≈ scale · (q - zero point), and the scales that weights get.

Uniform affine quantization as in Jacob et al., arXiv 1712.05877, section 2.1; weights are symmetric and per output
channel, as in Krishnamoorthi, arXiv 1806.08342, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd2edge.graph.topology import Array
from kd2edge.schema.quantize import Clipping

Scales = Mapping[str, NDArray[np.float32]]  # of the weights, by node name: [output channels]

SMALLEST = float(np.finfo(np.float32).tiny)
BIAS_LIMIT = 2**30
SHRINKS = np.linspace(1.0, 0.5, 26)


@dataclass(frozen=True)
class Range:
    """The real values an activation tensor is to represent, ends included."""

    low: float
    high: float


def symmetric(limits: Range) -> np.float32:
    """Scale of int8 with zero point 0 that represents `limits` on -127 to 127."""
    scale: np.float32 = np.float32(_usable(max(abs(limits.low), abs(limits.high)) / 127))
    return scale


def affine(limits: Range) -> tuple[np.float32, int]:
    """Scale and zero point of uint8 that represents `limits` widened to hold 0, which stays exact."""
    low, high = min(limits.low, 0.0), max(limits.high, 0.0)
    scale = _usable((high - low) / 255)
    return np.float32(scale), round(-low / scale)


def _usable(scale: float) -> float:
    """A tensor that is always 0 has no scale of its own; any will do."""
    return scale if scale >= SMALLEST else 1.0


def weight_scales(weight: Array, axis: int, clipping: Clipping, bits: int = 8) -> NDArray[np.float32]:
    """One scale for each output channel (along `axis`) of a float weight: [channels], symmetric.

    `minmax` maps the largest magnitude to the largest integer; the others shrink that, down to a half, to where the
    squared error of the channel is smallest: a channel has too few weights for ranks and distributions. `bits` is 7
    where 8 would overflow (see `has_vnni`).
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    largest = 2 ** (bits - 1) - 1
    widest: NDArray[np.float64] = np.abs(rows).max(axis=1) / largest
    widest[widest < SMALLEST] = 1.0
    if clipping == "minmax":
        return widest.astype(np.float32)
    tried = widest * SHRINKS[:, None]
    errors = np.stack([_squared_error(rows, scales[:, None], largest) for scales in tried])
    best: NDArray[np.float32] = tried[errors.argmin(axis=0), np.arange(len(widest))].astype(np.float32)
    return best


def _squared_error(rows: Array, scale: Array, largest: int) -> Array:
    error: Array = ((np.clip(np.rint(rows / scale), -largest, largest) * scale - rows) ** 2).sum(axis=1)
    return error


def quantize_weight(weight: Array, scales: NDArray[np.float32], axis: int, bits: int = 8) -> NDArray[np.int8]:
    """The integers of `weight` under one scale for each slice along `axis`."""
    largest = 2 ** (bits - 1) - 1
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    return np.clip(np.rint(weight / scales.reshape(shape)), -largest, largest).astype(np.int8)


def fit_bias(scales: NDArray[np.float32], bias: Array, given: np.float32) -> NDArray[np.float32]:
    """Weight scales widened where the bias would overflow int32 at the scale `given` · `scales`.

    That happens to channels whose weights batch norm has all but switched off, so their resolution hardly matters.
    """
    least = np.abs(bias.astype(np.float64)) / (float(given) * BIAS_LIMIT)
    return np.maximum(scales, least).astype(np.float32)


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this x86 CPU multiplies u8 by s8 into 32 bits.

    Without VNNI the product pairs are added in 16 bits and saturate, so weights must keep to 7 bits
    (onnxruntime's documentation of `reduce_range`). An unreadable file counts as a CPU without.
    """
    try:
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags.split())
