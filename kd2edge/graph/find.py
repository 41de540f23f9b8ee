"""Find a net's tensors in the graph it was exported as: by what they hold, since exporters name them as they like."""

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from kd2edge.graph.run import run, session
from kd2edge.graph.topology import FLOATS, Topology, element_types

NEAR = 1e-3  # of the largest magnitude: folding and other kernels round differently


def tensor_holding(model: ModelProto, images: NDArray[np.float32], values: NDArray[np.float32]) -> str | None:
    """The first float tensor that holds `values` [N, ...] when `images` [N, C, H, W] go in; None where none does."""
    types = element_types(model)
    names = [name for name in Topology(model).producer if types.get(name) in FLOATS]
    held = zip(names, tensors(model, images, names), strict=True)
    return next((name for name, found in held if same(found, values)), None)


def tensors(model: ModelProto, images: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.float32]]:
    """What the float tensors `names` of a graph hold when `images` [N, C, H, W] go in."""
    wide = ModelProto()
    wide.CopyFrom(model)
    del wide.graph.output[:]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    return run(session(wide), images, names)


def initializer_holding(
    model: ModelProto, values: NDArray[np.float32], besides: Collection[str] = ()
) -> tuple[str, bool] | None:
    """The initializer that holds `values`, and whether it does so transposed; None where none but `besides` does."""
    graph = Topology(model)
    for name in graph.initializers:
        held = graph.constant(name)
        if held.dtype == np.float32 and name not in besides:
            if same(held, values):
                return name, False
            if held.ndim == 2 and same(held.T, values):
                return name, True
    return None


def same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two tensors hold the same, but for what kernels round differently."""
    return one.shape == other.shape and bool(np.abs(one - other).max() <= NEAR * np.abs(other).max())
