"""Fold what a deployed graph need not compute: BatchNormalization into the layer before it, Identity and Dropout away.

Quantization must see folded graphs: integer convolutions have no separate batch norm, and the range that matters is the
one behind it (Jacob et al., arXiv 1712.05877, section 3.2).
"""

import numpy as np
from onnx import ModelProto, NodeProto

from kd2edge.graph.constants import fold_constants
from kd2edge.graph.topology import Array, Topology, add_initializer, attribute, drop_unread, name_nodes, shapes

NO_OPS = ("Identity", "Dropout")


def fold(model: ModelProto) -> ModelProto:
    """A copy with constants as initializers, no Identity or Dropout, and batch norms folded. Exact to rounding.

    A MatMul of a matrix and a constant becomes a Gemm.
    """
    folded = ModelProto()
    folded.CopyFrom(model)
    name_nodes(folded)
    fold_constants(folded)
    _drop_no_ops(folded)
    _matmul_to_gemm(folded)
    while _fold_one_batch_norm(folded):
        pass
    drop_unread(folded)
    del folded.graph.value_info[:]
    return folded


def _drop_no_ops(model: ModelProto) -> None:
    for node in [n for n in model.graph.node if n.op_type in NO_OPS]:
        graph = Topology(model)
        source, result = node.input[0], node.output[0]
        if any(graph.readers.get(mask) for mask in node.output[1:]):
            continue  # a Dropout whose mask is read
        if result not in graph.outputs:
            _reread(graph, result, source)
        elif source in graph.producer and source not in graph.outputs:
            _rename_output(graph, source, result)
        else:
            continue  # the graph's input or a constant, given straight out
        model.graph.node.remove(node)


def _reread(graph: Topology, old: str, new: str) -> None:
    for reader, slot in graph.readers.get(old, []):
        reader.input[slot] = new


def _rename_output(graph: Topology, old: str, new: str) -> None:
    maker = graph.producer[old]
    maker.output[list(maker.output).index(old)] = new
    _reread(graph, old, new)


def _matmul_to_gemm(model: ModelProto) -> None:
    """A linear layer without a bias is exported as MatMul; as Gemm it can take one, and be quantized."""
    graph, known = Topology(model), shapes(model)
    for node in graph.nodes:
        constant = node.op_type == "MatMul" and node.input[1] in graph.initializers
        if constant and len(known.get(node.input[0], ())) == len(known[node.input[1]]) == 2:
            node.op_type = "Gemm"


def _fold_one_batch_norm(model: ModelProto) -> bool:
    graph = Topology(model)
    for norm in graph.nodes:
        layer = graph.producer.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if layer is not None and _foldable(graph, layer, norm):
            _merge(model, graph, layer, norm)
            return True
    return False


def _foldable(graph: Topology, layer: NodeProto, norm: NodeProto) -> bool:
    return (
        layer.op_type in ("Conv", "ConvTranspose", "Gemm")
        and graph.only_reader(layer.output[0]) is norm
        and not attribute(norm, "training_mode", 0)
        and all(name in graph.initializers for name in [*norm.input[1:], *layer.input[1:]])
        and (layer.op_type != "Gemm" or attribute(layer, "alpha", 1.0) == attribute(layer, "beta", 1.0) == 1.0)
    )


def _merge(model: ModelProto, graph: Topology, layer: NodeProto, norm: NodeProto) -> None:
    """y = γ (Wx + b - μ) / √(σ² + ε) + β, so W' = W γ/√(σ² + ε) and b' = (b - μ) γ/√(σ² + ε) + β, in float64."""
    scale, shift, mean, variance = (graph.constant(name).astype(np.float64) for name in norm.input[1:5])
    gain = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = graph.constant(layer.input[1]).astype(np.float64)
    bias = graph.constant(layer.input[2]).astype(np.float64) if len(layer.input) > 2 else np.zeros(1)
    names = [
        add_initializer(
            model, f"{layer.input[1]}_folded", (weight * _along_outputs(layer, weight, gain)).astype(np.float32)
        ),
        add_initializer(model, f"{norm.input[2]}_folded", ((bias - mean) * gain + shift).astype(np.float32)),
    ]
    layer.input[:] = [layer.input[0], *names]
    layer.output[0] = norm.output[0]
    model.graph.node.remove(norm)


def _along_outputs(layer: NodeProto, weight: Array, gain: Array) -> Array:
    """`gain` [outputs], shaped to multiply the weight along its output channels."""
    if layer.op_type == "Conv" or (layer.op_type == "Gemm" and attribute(layer, "transB", 0)):
        return gain.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op_type == "Gemm":
        return gain
    groups = attribute(layer, "group", 1)  # ConvTranspose: [inputs, outputs / groups, ...], the inputs in group order
    per_group = gain.reshape(groups, -1).repeat(weight.shape[0] // groups, axis=0)
    return per_group.reshape(*per_group.shape, *[1] * (weight.ndim - 2))
