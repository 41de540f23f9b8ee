"""INT8 in the layers that are named and nowhere else, also where the policy would keep them: to see what it avoids."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from kd2edge.graph.insert import insert
from kd2edge.graph.placement import MOVES, Coverage, Layer, Plan, Site
from kd2edge.graph.quantize import Calibrated
from kd2edge.graph.scales import weight_scales
from kd2edge.graph.topology import Topology, attribute

AXES = {"Conv": 0, "ConvTranspose": 1}


def can_be_int8(model: ModelProto) -> set[str]:
    """The layers of a folded `model`, by node name, that could be quantized at all: their weights are constant."""
    graph = Topology(model)
    layers = [node for node in graph.nodes if node.op_type in (*AXES, "Gemm")]
    return {node.name for node in layers if all(name in graph.initializers for name in node.input[1:])}


def quantize_alone(calibrated: Calibrated, names: Collection[str]) -> ModelProto:
    """A copy of the folded model with the inputs and weights of the named layers in INT8.

    It was to be calibrated for any choice of layers. Raises `UserError` where a range is missing.
    """
    graph = Topology(calibrated.model)
    layers = [_layer(graph, node) for node in graph.nodes if node.name in names]
    inputs = {node.name: node.input[0] for node in graph.nodes if node.name in names}
    sites: dict[str, list[Layer]] = {}
    for layer in layers:
        sites.setdefault(inputs[layer.node], []).append(layer)
    placed = tuple(
        Site(tensor, tuple((layer.node, 0) for layer in readers), readers[0].ranged_as)
        for tensor, readers in sites.items()
    )
    plan = Plan(calibrated.flavour, tuple(layers), placed, {}, Coverage(0, 0, 0, 0))
    scales: dict[str, NDArray[np.float32]] = {
        layer.node: weight_scales(graph.constant(layer.weight), layer.axis, "minmax", calibrated.bits)
        for layer in layers
    }
    return insert(calibrated.model, plan, calibrated.ranges, scales, calibrated.bits)


def _layer(graph: Topology, node: NodeProto) -> Layer:
    axis = AXES.get(node.op_type, 0 if attribute(node, "transB", 0) else 1)
    tensor = node.input[0]
    while (maker := graph.producer.get(tensor)) is not None and maker.op_type in MOVES:
        tensor = maker.input[0]
    return Layer(node.name, node.input[1], axis, tensor)
