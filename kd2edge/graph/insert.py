"""The one Q/DQ inserter, whether ranges were calibrated or learned in training.

Weights are stored as int8 with a DequantizeLinear each; activations get a QuantizeLinear/DequantizeLinear pair.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.placement import Layer, Plan, Site
from kd2edge.graph.run import session
from kd2edge.graph.scales import Range, Scales, affine, fit_bias, quantize_weight, symmetric
from kd2edge.graph.topology import Array, add_initializer, drop_unread
from kd2edge.schema import Flavour


def insert(model: ModelProto, plan: Plan, ranges: Mapping[str, Range], scales: Scales, bits: int = 8) -> ModelProto:
    """A copy of the folded `model` with the Q/DQ of `plan`.

    `ranges` holds a range for each of `plan.tensors`; `scales` the weight scales [output channels] of each layer, by
    node name. The result is checked and loaded once in ONNX Runtime; `UserError` says what is missing or refused.
    """
    missing = [name for name in plan.tensors if name not in ranges] + [
        i.node for i in plan.layers if i.node not in scales
    ]
    if missing:
        raise UserError(f"There is no range for {', '.join(missing)}.")
    result = ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    nodes = {node.name: node for node in result.graph.node}
    pairs = {site.tensor: _activation(result, plan.flavour, site, nodes, ranges[site.ranged_as]) for site in plan.sites}
    weights: list[NodeProto] = []
    for layer in plan.layers:
        node, scale = nodes[layer.node], scales[layer.node]
        if plan.flavour == "ort-x86" and len(node.input) > 2:
            given, _ = affine(ranges[layer.ranged_as])
            scale = fit_bias(scale, constants[node.input[2]], given)
            weights.append(_bias(result, node, constants[node.input[2]], given * scale))
        weights.append(_weight(result, layer, node, constants[layer.weight], scale, bits))
    _splice(result, weights, pairs)
    onnx.checker.check_model(result, full_check=True)
    session(result)
    return result


def _activation(
    model: ModelProto, flavour: Flavour, site: Site, nodes: Mapping[str, NodeProto], limits: Range
) -> list[NodeProto]:
    name = site.tensor
    if flavour == "tensorrt":
        scale, zero = symmetric(limits), np.int8(0)
    else:
        scale, point = affine(limits)
        zero = np.uint8(point)
    parameters = [add_initializer(model, f"{name}_scale", scale), add_initializer(model, f"{name}_zero_point", zero)]
    for reader, slot in site.readers:
        nodes[reader].input[slot] = f"{name}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_quantized"], f"{name}_quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_quantized", *parameters], [f"{name}_dequantized"], f"{name}_dequantize"
        ),
    ]


def _weight(
    model: ModelProto, layer: Layer, node: NodeProto, values: Array, scale: NDArray[np.float32], bits: int
) -> NodeProto:
    return _stored(model, node, 1, quantize_weight(values, scale, layer.axis, bits), scale, layer.axis)


def _bias(model: ModelProto, node: NodeProto, values: Array, scale: NDArray[np.float32]) -> NodeProto:
    """As int32 at the scale of the products: onnxruntime before 1.21 leaves a layer with a float bias in float.

    NVIDIA's parser refuses it, and TensorRT adds a float bias inside the integer kernel.
    """
    return _stored(model, node, 2, np.rint(values / scale.astype(np.float64)).astype(np.int32), scale, 0)


def _stored(
    model: ModelProto, node: NodeProto, slot: int, integers: Array, scale: NDArray[np.float32], axis: int
) -> NodeProto:
    """Store `integers` for the input `slot` of `node`, behind a DequantizeLinear."""
    name = f"{node.name}_{'weight' if slot == 1 else 'bias'}"
    parameters = [
        add_initializer(model, f"{name}_quantized", integers),
        add_initializer(model, f"{name}_scale", scale),
        add_initializer(model, f"{name}_zero_point", np.zeros(len(scale), integers.dtype)),
    ]
    node.input[slot] = f"{name}_dequantized"
    return helper.make_node("DequantizeLinear", parameters, [node.input[slot]], f"{name}_dequantize", axis=axis)


def _splice(model: ModelProto, weights: list[NodeProto], pairs: dict[str, list[NodeProto]]) -> None:
    """Each pair right behind what makes its tensor, the rest in front: nodes stay in topological order."""
    ordered = list(weights)
    for value in model.graph.input:
        ordered += pairs.get(value.name, [])
    for node in model.graph.node:
        ordered.append(node)
        ordered += [new for name in node.output for new in pairs.get(name, [])]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    drop_unread(model)
