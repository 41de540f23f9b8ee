"""Bias correction: rounding the weights shifts the mean of each output channel, and the bias takes the shift back.

The shift is E[ε x] = Σ ε E[x], with ε the weights' rounding error and E[x] the mean of each input channel, measured on
the calibration images (Nagel et al., arXiv 1906.04721, section 4.2). Borders are taken to be like the middle.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from kd2edge.graph.placement import Layer, Plan
from kd2edge.graph.scales import Scales, quantize_weight
from kd2edge.graph.topology import Array, Topology, add_initializer, attribute, drop_unread


def correct_bias(
    model: ModelProto, plan: Plan, scales: Scales, means: Mapping[str, Array], bits: int = 8
) -> ModelProto:
    """A copy of the folded `model` with the biases that the layers of `plan` are to have once they are INT8.

    `scales` are the weights', by node name; `means` those of each channel [C] of the tensors that the layers read.
    """
    corrected = ModelProto()
    corrected.CopyFrom(model)
    graph = Topology(corrected)
    nodes = {node.name: node for node in graph.nodes}
    for layer in plan.layers:
        node = nodes[layer.node]
        if node.op_type in ("Conv", "Gemm"):
            weight = graph.constant(layer.weight)
            shift = _shift(node, layer, weight, scales[layer.node], means[node.input[0]], bits)
            bias = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(len(shift))
            node.input[2:] = [add_initializer(corrected, f"{node.name}_bias_corrected", (bias - shift).astype("f"))]
    drop_unread(corrected)
    return corrected


def _shift(node: NodeProto, layer: Layer, weight: Array, scales: NDArray[np.float32], means: Array, bits: int) -> Array:
    """Σ ε E[x] over the inputs of each output: [outputs]."""
    along = np.expand_dims(scales, [axis for axis in range(weight.ndim) if axis != layer.axis])
    error = quantize_weight(weight, scales, layer.axis, bits) * along.astype(np.float64) - weight
    if node.op_type == "Gemm":
        return np.asarray(error @ means if layer.axis == 0 else means @ error)
    groups = attribute(node, "group", 1)
    summed = error.sum(axis=tuple(range(2, weight.ndim))).reshape(groups, -1, weight.shape[1])
    return np.asarray(np.einsum("goi,gi->go", summed, means.reshape(groups, -1)).ravel())
