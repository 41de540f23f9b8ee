"""Who makes and who reads each tensor of an ONNX graph, and the shapes inference gives them at batch 1."""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper

Array = NDArray[Any]
Shape = tuple[int | None, ...]

FLOATS = (onnx.TensorProto.FLOAT,)
COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Topology:
    """An index of a graph as it stands now; build it again after an edit."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for node in graph.node:
            for slot, name in enumerate(node.input):
                if name:
                    self.readers[name].append((node, slot))

    def constant(self, name: str) -> Array:
        """The values of an initializer."""
        return numpy_helper.to_array(self.initializers[name])

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads `name`, or None when several do or the graph gives the tensor out."""
        readers = self.readers.get(name, [])
        return readers[0][0] if len(readers) == 1 and name not in self.outputs else None


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or `default` when it does not carry one."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def opset(model: ModelProto) -> int:
    """The version of the standard operator set the model imports (0 if it imports none)."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


def shapes(model: ModelProto) -> dict[str, Shape]:
    """Shape of every tensor with the batch dimension of the inputs set to 1; None where inference cannot tell."""
    return {name: _dims(value) for name, value in _inferred(model).items()} | {
        tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer
    }


def element_types(model: ModelProto) -> dict[str, int]:
    """`TensorProto` data type of every tensor that inference can tell."""
    return {name: value.type.tensor_type.elem_type for name, value in _inferred(model).items()} | {
        tensor.name: tensor.data_type for tensor in model.graph.initializer
    }


def _dims(value: ValueInfoProto) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def _inferred(model: ModelProto) -> dict[str, ValueInfoProto]:
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    return {value.name: value for value in [*graph.input, *graph.value_info, *graph.output]}


def drop_unread(model: ModelProto) -> None:
    """Remove the initializers that nothing reads any more."""
    graph = Topology(model)
    for name, tensor in graph.initializers.items():
        if name not in graph.readers and name not in graph.outputs:
            model.graph.initializer.remove(tensor)


def name_nodes(model: ModelProto) -> None:
    """Give each node a name of its own where it lacks one: plans and messages speak of nodes by name."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}_{node.output[0]}"
        seen.add(node.name)


def add_initializer(model: ModelProto, name: str, values: Array | np.generic) -> str:
    """Add `values` to the graph under `name` (made unique) and return the name it got."""
    taken = {tensor.name for tensor in model.graph.initializer}
    unique = next(n for n in (name, *(f"{name}_{i}" for i in range(len(taken) + 1))) if n not in taken)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, order="C"), unique))
    return unique
