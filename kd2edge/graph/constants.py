"""Evaluate what does not depend on the image: exporters leave Pad widths, tied weights and shapes as subgraphs."""

import math

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from kd2edge.errors import UserError
from kd2edge.graph.topology import Array

# A quantized weight is to stay quantized, and a random one is not constant.
LEFT = frozenset({"QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform"})
MOST = 1 << 24  # elements that all nodes together may make beyond those they are given
FEW = 64  # elements of a constant that may be a shape


def fold_constants(model: ModelProto) -> None:
    """Replace, in place, every node whose inputs are all constants by its outputs as initializers.

    A node that cannot be evaluated stays as it is. Raises `UserError` where constants are out of all proportion: a
    damaged file may ask for terabytes, and shape inference would allocate them.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    spare = MOST
    for node in list(model.graph.node):
        if node.op_type in LEFT or _has_body(node) or not all(name in values for name in node.input if name):
            continue
        try:
            grown = _grown(model, node, values)
            _require_room(node, grown, spare)
            made = _evaluate(model, node, values)
            tensors = [numpy_helper.from_array(value, name) for name, value in zip(node.output, made, strict=False)]
        except UserError:
            raise
        except Exception:  # whatever numpy and onnx raise, of hundreds of operators: onnxruntime will tell it
            continue
        spare -= max(grown, 0)
        values.update(zip(node.output, made, strict=False))
        model.graph.initializer.extend(tensors)
        model.graph.node.remove(node)


def _require_room(node: NodeProto, grown: int, spare: int) -> None:
    if grown > spare:
        what = f"{node.name}, a {node.op_type}"
        raise UserError(f"{what}, makes a constant of {grown:,} elements.", "export the net again: the file is damaged")


def _has_body(node: NodeProto) -> bool:
    return any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute)


def _grown(model: ModelProto, node: NodeProto, values: dict[str, Array]) -> int:
    """How many elements a node's outputs have beyond its inputs, as far as shape inference can tell without them."""
    known = {name: values[name] for name in node.input if name}
    few = [numpy_helper.from_array(value, name) for name, value in known.items() if value.size <= FEW]
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in known.items()}
    given = [
        onnx.helper.make_tensor_value_info(name, kinds[name], value.shape)
        for name, value in known.items()
        if value.size > FEW
    ]
    alone = _alone(model, node, given)
    alone.graph.initializer.extend(few)
    inferred = onnx.shape_inference.infer_shapes(alone, strict_mode=True)
    shapes = [value.type.tensor_type.shape for value in inferred.graph.output]
    sizes = [math.prod(dim.dim_value if dim.HasField("dim_value") else 0 for dim in shape.dim) for shape in shapes]
    return int(sum(sizes) - sum(value.size for value in known.values()))


def _evaluate(model: ModelProto, node: NodeProto, values: dict[str, Array]) -> list[Array]:
    feeds = {name: values[name] for name in node.input if name}
    alone = _alone(model, node, [onnx.helper.make_empty_tensor_value_info(name) for name in feeds])
    return [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, feeds)]


def _alone(model: ModelProto, node: NodeProto, given: list[ValueInfoProto]) -> ModelProto:
    """A model of one node."""
    made = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    alone = onnx.helper.make_model(onnx.helper.make_graph([node], "constant", given, made))
    del alone.opset_import[:]
    alone.opset_import.extend(model.opset_import)
    return alone
