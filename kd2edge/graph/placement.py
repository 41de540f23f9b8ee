"""Where quantization goes: one policy, two flavours, and each layer left in float with its reason.

`tensorrt` follows NVIDIA's rules for explicit quantization (TensorRT developer guide, "Q/DQ layer-placement
recommendations"): quantize the inputs of weighted layers, and at a residual Add only the skip branch, so that
Conv + Add + ReLU fuse. `ort-x86` quantizes what ONNX Runtime's CPU provider needs to run a layer in integers: inputs
and outputs.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from kd2edge.errors import UserError
from kd2edge.graph.cost import layer_macs
from kd2edge.graph.keep import is_residual, kept_in_float, outlier_tensors
from kd2edge.graph.topology import COMPUTE, Topology, attribute, element_types, shapes
from kd2edge.schema import Flavour

MOVES = ("MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
OTHER_FLOATS = {
    number: name.lower() for name, number in TensorProto.DataType.items() if "FLOAT" in name or name == "DOUBLE"
}
del OTHER_FLOATS[TensorProto.FLOAT]
Edge = tuple[str, str, int]  # tensor, the node that reads it, at which input slot


@dataclass(frozen=True)
class Layer:
    """A layer to run in INT8: its weight initializer, the axis of its output channels, and the range of its input."""

    node: str
    weight: str
    axis: int
    ranged_as: str


@dataclass(frozen=True)
class Site:
    """A Q/DQ pair on `tensor` for the given readers (node, input slot), with the range of the tensor `ranged_as`."""

    tensor: str
    readers: tuple[tuple[str, int], ...]
    ranged_as: str


@dataclass(frozen=True)
class Coverage:
    """How much of a model runs in INT8: weighted layers, and multiply-accumulates of one image."""

    layers: int
    all_layers: int
    macs: int
    all_macs: int


@dataclass(frozen=True)
class Plan:
    """What to quantize in a folded model, and why the rest is not (`kept`: node name to reason)."""

    flavour: Flavour
    layers: tuple[Layer, ...]
    sites: tuple[Site, ...]
    kept: dict[str, str]
    coverage: Coverage

    @property
    def tensors(self) -> list[str]:
        """The tensors whose ranges are needed, each once."""
        return list(dict.fromkeys(site.ranged_as for site in self.sites))


def make_plan(model: ModelProto, flavour: Flavour, keep: Mapping[str, str] | None = None) -> Plan:
    """Place Q/DQ in a folded float `model`; `keep` names further nodes that stay in float, each with its reason.

    Raises `UserError` if it is quantized already, is not float32, or no layer is left to quantize.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise UserError("The model is quantized already.", "give the float model it was made from")
    graph, known = Topology(model), shapes(model)
    _refuse_other_floats(model, graph)
    kept = {**(keep or {}), **kept_in_float(graph, known, flavour)}
    chosen = [node for node in graph.nodes if node.op_type in COMPUTE and node.name not in kept]
    if not chosen:
        raise UserError("No layer of the model can run in INT8.", "; ".join(f"{n}: {why}" for n, why in kept.items()))
    if flavour == "tensorrt":
        edges = _tensorrt(graph, chosen)
    else:
        edges = _ort_x86(graph, chosen, outlier_tensors(graph, known))
    layers = tuple(
        Layer(node.name, node.input[1], _output_axis(node), _source(graph, node.input[0])) for node in chosen
    )
    return Plan(flavour, layers, _sites(graph, edges), kept, _coverage(model, layers))


def _refuse_other_floats(model: ModelProto, graph: Topology) -> None:
    """Of a layer, input and weight are looked at: a batch norm folded into a float16 weight has made it float32."""
    types = element_types(model)
    read = (types.get(name, 0) for node in graph.nodes if node.op_type in COMPUTE for name in node.input[:2])
    other = next((OTHER_FLOATS[kind] for kind in read if kind in OTHER_FLOATS), None)
    if other is not None:
        raise UserError(f"The weights are {other}, not float32.", "give the FP32 model it was made from")


def ranged(model: ModelProto) -> list[str]:
    """The tensors that any plan for a folded `model` may want ranges of, whatever it keeps in float."""
    graph = Topology(model)
    layers = [node for node in graph.nodes if node.op_type in COMPUTE]
    sums = [node for node in graph.nodes if is_residual(graph, node)]
    given = [node.input[0] for node in layers] + [name for node in sums for name in node.input]
    made = [_result(graph, node) for node in [*layers, *sums]]
    return list(dict.fromkeys(_source(graph, name) for name in [*given, *made]))


def _output_axis(node: NodeProto) -> int:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _coverage(model: ModelProto, layers: tuple[Layer, ...]) -> Coverage:
    counts = layer_macs(model)
    return Coverage(len(layers), len(counts), sum(counts[layer.node] for layer in layers), sum(counts.values()))


def _sites(graph: Topology, edges: Iterator[Edge]) -> tuple[Site, ...]:
    readers: dict[str, dict[tuple[str, int], None]] = defaultdict(dict)
    for tensor, node, slot in edges:
        readers[tensor][node, slot] = None
    return tuple(Site(tensor, tuple(found), _source(graph, tensor)) for tensor, found in readers.items())


def _source(graph: Topology, tensor: str) -> str:
    """What only moves values has the range of what it moves, so that it can run on integers as they are."""
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in MOVES:
        tensor = node.input[0]
        node = graph.producer.get(tensor)
    return tensor


def _tensorrt(graph: Topology, chosen: list[NodeProto]) -> Iterator[Edge]:
    """The inputs of the layers, and of each residual Add the branch that is not a convolution's own output.

    A Pad or a PReLU is never between Q/DQ and its layer: NVIDIA's parser refuses a quantized Pad constant, and TensorRT
    does not fuse PReLU.
    """
    names = {node.name for node in chosen}
    depth = _depths(graph)
    for node in graph.nodes:
        if node.name in names:
            yield node.input[0], node.name, 0
        elif is_residual(graph, node):
            straight = [getattr(graph.producer.get(name), "name", None) in names for name in node.input]
            if all(straight):  # both come from convolutions: the shortcut is the shallower one
                straight = [depth[name] == max(depth[n] for n in node.input) for name in node.input]
                straight[1] &= not straight[0]
            if any(straight):
                slot = straight.index(False)
                yield node.input[slot], node.name, slot


def _depths(graph: Topology) -> dict[str, int]:
    """Weighted layers on the longest way from the input to each tensor."""
    depth: dict[str, int] = defaultdict(int)
    for node in graph.nodes:
        below = max((depth[name] for name in node.input), default=0) + (node.op_type in COMPUTE)
        depth.update(dict.fromkeys(node.output, below))
    return depth


def _ort_x86(graph: Topology, chosen: list[NodeProto], never: list[str]) -> Iterator[Edge]:
    """All readers of every tensor that an integer layer, or an Add of its outputs, takes or makes, but for `never`."""
    tensors = {node.input[0]: None for node in chosen} | {_result(graph, node): None for node in chosen}
    for node in graph.nodes:
        if is_residual(graph, node) and any(name in tensors for name in node.input):
            tensors |= dict.fromkeys([*node.input, _result(graph, node)])
    for tensor in (name for name in tensors if name not in never):
        for node, slot in graph.readers[tensor]:
            yield tensor, node.name, slot


def _result(graph: Topology, node: NodeProto) -> str:
    """The output of a layer behind the ReLU or clip that its integer kernel absorbs."""
    reader = graph.only_reader(node.output[0])
    maker = reader if reader is not None and reader.op_type in ("Relu", "Clip") else node
    return str(maker.output[0])
