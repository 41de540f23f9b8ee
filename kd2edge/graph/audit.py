"""Does a Q/DQ graph use the integers it has? A scale that is too large wastes bits without changing much else."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from kd2edge.graph.calibrate import observe
from kd2edge.graph.histogram import Extremes
from kd2edge.graph.topology import Topology


def range_used(model: ModelProto, batches: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """Share of its integer range, 0..1, that each quantized activation reaches over `batches` (float32 [N, C, H, W]).

    1 is a range that is filled or clipped; a scale four times too large leaves about 0.25. Keyed by the tensor that is
    quantized; empty for a graph without quantized activations. Raises `UserError` for unusable images.
    """
    graph = Topology(model)
    quantizers = {
        node.input[0]: node
        for node in graph.nodes
        if node.op_type == "QuantizeLinear" and node.input[0] not in graph.initializers
    }
    if not quantizers:
        return {}
    seen = {name: Extremes() for name in quantizers}
    observe(model, seen, batches)
    return {name: _share(graph, node, seen[name]) for name, node in quantizers.items()}


def _share(graph: Topology, node: NodeProto, seen: Extremes) -> float:
    """The larger of the shares reached on either side of zero."""
    scale = float(graph.constant(node.input[1]))
    zero = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
    limits = np.iinfo(zero.dtype)
    above, below = (limits.max - int(zero)) * scale, (int(zero) - limits.min) * scale
    shares = [seen.high / above if above > 0 else 0.0, -seen.low / below if below > 0 else 0.0]
    return min(1.0, max(0.0, *shares))
