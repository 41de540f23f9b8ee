"""What a model costs on paper: parameters, and multiply-accumulates (MACs) of one image."""

from math import prod

from onnx import ModelProto, NodeProto, TensorProto

from kd2edge.errors import UserError
from kd2edge.graph.topology import COMPUTE, Shape, Topology, attribute, shapes

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def parameters(model: ModelProto) -> int:
    """Number of learned values: float or quantized initializers, without scales, zero points, shapes and scalars."""
    graph = Topology(model)
    return sum(prod(t.dims) for t in graph.initializers.values() if t.dims and _is_learned(graph, t))


def _is_learned(graph: Topology, tensor: TensorProto) -> bool:
    readers = graph.readers[tensor.name]
    quantizers = [slot for node, slot in readers if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return 0 in quantizers if quantizers else tensor.data_type in FLOATS


def macs(model: ModelProto) -> int:
    """Multiply-accumulates of all layers for one image."""
    return sum(layer_macs(model).values())


def layer_macs(model: ModelProto) -> dict[str, int]:
    """MACs of each Conv, ConvTranspose, Gemm and MatMul for one image, by node name.

    Raises `UserError` if shape inference cannot tell a shape that is needed.
    """
    known = shapes(model)
    return {node.name: _count(node, known) for node in model.graph.node if node.op_type in COMPUTE}


def _count(node: NodeProto, known: dict[str, Shape]) -> int:
    given, weight, result = (_sizes(name, known) for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":
        return prod(result) * prod(weight[1:])  # weight: [outputs, inputs / groups, *kernel]
    if node.op_type == "ConvTranspose":
        return prod(given) * prod(weight[1:])  # weight: [inputs, outputs / groups, *kernel]
    inner = given[0] if attribute(node, "transA", 0) else given[-1]
    return prod(result) * inner


def _sizes(name: str, known: dict[str, Shape]) -> list[int]:
    dims = list(known.get(name, (None,)))
    if len(dims) > 1 and dims[0] is None:
        dims[0] = 1  # a batch that went through a reshape; the count is for one image
    sizes = [dim for dim in dims if dim is not None]
    if len(sizes) < len(dims):
        raise UserError(f"The shape of the tensor {name!r} cannot be inferred, so its layer cannot be counted.")
    return sizes
