"""Does a Q/DQ graph use the integers it has? A scale that is too large wastes bits without changing much else."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from kd2edge.graph.calibrate import observe
from kd2edge.graph.histogram import Extremes
from kd2edge.graph.scales import Range
from kd2edge.graph.topology import Array, Topology, attribute


def range_used(model: ModelProto, batches: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """Share of its integer range, 0..1, that each quantized activation reaches over `batches` (float32 [N, C, H, W]).

    1 is a range that is filled or clipped; a scale four times too large leaves about 0.25. Keyed by the tensor that is
    quantized; empty where no activation has one constant scale. Raises `UserError` for unusable images.
    """
    graph = Topology(model)
    limits = {node.input[0]: _limits(graph, node) for node in graph.nodes if node.op_type == "QuantizeLinear"}
    known = {name: found for name, found in limits.items() if found is not None and name not in graph.initializers}
    if not known:
        return {}
    seen = {name: Extremes() for name in known}
    observe(model, seen, batches)
    return {name: _share(found, seen[name]) for name, found in known.items()}


def _limits(graph: Topology, node: NodeProto) -> Range | None:
    """The values that the integers of a quantizer stand for; None if it has no single constant scale, or no integers.

    Other tools' files may compute their scales, keep them per channel, or quantize to FP8.
    """
    parameters = [_constant(graph, name) for name in node.input[1:3]]
    if any(values is None or values.size != 1 for values in parameters):
        return None
    scale, zero = parameters[0], parameters[1] if len(parameters) > 1 else np.zeros(1, np.uint8)
    assert scale is not None
    assert zero is not None
    if not np.issubdtype(zero.dtype, np.integer):
        return None
    integers = np.iinfo(zero.dtype)
    step, point = float(scale.ravel()[0]), int(zero.ravel()[0])
    return Range((integers.min - point) * step, (integers.max - point) * step)


def _constant(graph: Topology, name: str) -> Array | None:
    """A tensor's values, whether an initializer holds them or a Constant node makes them."""
    if name in graph.initializers:
        return graph.constant(name)
    maker = graph.producer.get(name)
    value = attribute(maker, "value", None) if maker is not None and maker.op_type == "Constant" else None
    return None if value is None else numpy_helper.to_array(value)


def _share(limits: Range, seen: Extremes) -> float:
    """The larger of the shares reached on either side of zero."""
    above = seen.high / limits.high if limits.high > 0 else 0.0
    below = seen.low / limits.low if limits.low < 0 else 0.0
    return min(1.0, max(0.0, above, below))
