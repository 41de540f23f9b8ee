"""Evaluate what does not depend on the image: exporters leave Pad widths, tied weights and shapes as subgraphs."""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from kd2edge.graph.topology import Array

# A quantized weight is to stay quantized, and a random one is not constant.
LEFT = frozenset({"QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform"})


def fold_constants(model: ModelProto) -> None:
    """Replace, in place, every node whose inputs are all constants by its outputs as initializers."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type in LEFT or _has_body(node) or not all(name in values for name in node.input if name):
            continue
        for name, value in zip(node.output, _evaluate(model, node, values), strict=False):
            values[name] = value
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        model.graph.node.remove(node)


def _has_body(node: NodeProto) -> bool:
    return any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute)


def _evaluate(model: ModelProto, node: NodeProto, values: dict[str, Array]) -> list[Array]:
    feeds = {name: values[name] for name in node.input if name}
    given = [onnx.helper.make_empty_tensor_value_info(name) for name in feeds]
    made = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    alone = onnx.helper.make_model(onnx.helper.make_graph([node], "constant", given, made))
    del alone.opset_import[:]
    alone.opset_import.extend(model.opset_import)
    return [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, feeds)]
