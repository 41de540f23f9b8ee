"""An ONNX graph as a torch module: what ships is what is trained, batch norms folded, every tensor under its own name.

Quantization-aware training needs that: fake quantization goes onto the very edges of the graph that Q/DQ nodes go onto.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.graph.topology import Topology, attribute

Values = list[Any]  # a node's inputs: tensors, or numpy arrays where they are no parameters
Edge = tuple[str, str]  # a tensor and the node that reads it

LEARNED = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "PRelu": (1,)}  # input slots that hold parameters


class GraphNet(nn.Module):
    """The part of a folded float graph that leads from its image input to the tensors `outputs`.

    Parameters keep the shapes of their initializers, so that they can be put back. On an edge of `edges` the reader
    gets what the module there makes of the tensor, weights included; `quantizers` are those modules, each once.
    The reader "" is whoever takes an output. Raises `UserError` for what it does not know: operators and their options.
    """

    def __init__(
        self,
        model: ModelProto,
        outputs: Iterable[str],
        edges: Mapping[Edge, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        graph = Topology(model)
        self.outputs = list(outputs)
        self.image = graph.inputs[0]
        self.nodes = leading_to(graph, self.outputs)
        unknown = sorted({node.op_type for node in self.nodes} - OPERATORS.keys())
        if unknown:
            raise UserError(
                f"The graph cannot be trained: it has {', '.join(unknown)}, which {__name__} does not know.",
                "quantize it without --qat",
            )
        for node in self.nodes:
            _require_known(graph, node)
        learned = {node.input[slot] for node in self.nodes for slot in _learned(node)} & graph.initializers.keys()
        read = {name for node in self.nodes for name in node.input} & graph.initializers.keys()
        self.order = sorted(learned)
        self.weights = nn.ParameterList(nn.Parameter(_tensor(graph.constant(name))) for name in self.order)
        self.constants = {name: graph.constant(name) for name in sorted(read - learned)}
        here = {(name, node.name) for node in self.nodes for name in node.input} | {(name, "") for name in self.outputs}
        placed = {edge: module for edge, module in (edges or {}).items() if edge in here}
        self.quantizers = nn.ModuleList(dict.fromkeys(placed.values()))
        self.edges = {edge: list(self.quantizers).index(module) for edge, module in placed.items()}

    def extra_repr(self) -> str:
        """The graph's nodes, so that two graphs print alike only if they compute alike."""
        return "\n".join(str(onnx.helper.printable_node(node)) for node in self.nodes)

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by the name of their initializer."""
        return dict(zip(self.order, self.weights, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [N, C, H, W] → the `outputs`."""
        known: dict[str, Any] = {**self.constants, **self.named(), self.image: images}
        seen: dict[tuple[str, int], Tensor] = {}
        for node in self.nodes:
            given = [self._given(known, seen, name, node.name) for name in node.input]
            known[node.output[0]] = OPERATORS[node.op_type](node, given)
        return tuple(self._given(known, seen, name, "") for name in self.outputs)

    def _given(self, known: Mapping[str, Any], seen: dict[tuple[str, int], Tensor], name: str, reader: str) -> Any:
        """What a reader gets for a tensor; one that several get quantized is quantized once."""
        place = self.edges.get((name, reader))
        if place is None:
            return known[name] if name else None
        if (name, place) not in seen:
            seen[name, place] = self.quantizers[place](known[name])
        return seen[name, place]


def leading_to(graph: Topology, outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on, in the graph's order."""
    wanted = set(outputs)
    chosen: list[NodeProto] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.output):
            chosen.append(node)
            wanted.update(node.input)
    return chosen[::-1]


def _learned(node: NodeProto) -> Iterable[int]:
    return [slot for slot in LEARNED.get(node.op_type, ()) if slot < len(node.input)]


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def as_float(value: Any, like: Tensor) -> Tensor:
    """A constant beside a tensor that is computed."""
    return (
        value if isinstance(value, Tensor) else torch.as_tensor(np.array(value), dtype=like.dtype, device=like.device)
    )


def _require_known(graph: Topology, node: NodeProto) -> None:
    """Raise `UserError` for a node whose operator is known, but not with these options."""
    pads, average = list(attribute(node, "pads", [])), node.op_type == "AveragePool"
    steps = [name for name in node.input[4:] if name in graph.initializers]
    faults = {
        "pads by auto_pad": attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"),
        "rounds its size up": average and attribute(node, "ceil_mode", 0),
        "pads one side more than the other": average and pads[: len(pads) // 2] != pads[len(pads) // 2 :],
        "pads by more than a constant": node.op_type == "Pad"
        and (attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3),
        "reads backwards": node.op_type == "Slice" and any((graph.constant(name) < 0).any() for name in steps),
    }
    for fault in (text for text, found in faults.items() if found):
        raise UserError(f"The graph cannot be trained: {node.name} {fault}.", "quantize it without --qat")


def _padded(node: NodeProto, x: Tensor, fill: float) -> tuple[Tensor, list[int]]:
    """What a window slides over, and the padding that is still to be done by it."""
    spatial = x.ndim - 2
    pads = list(attribute(node, "pads", [0] * 2 * spatial))
    if pads[:spatial] == pads[spatial:]:
        return x, pads[:spatial]
    both = [pads[axis + side * spatial] for axis in reversed(range(spatial)) for side in (0, 1)]
    return F.pad(x, both, value=fill), [0] * spatial


def _conv(node: NodeProto, given: Values) -> Tensor:
    x, padding = _padded(node, given[0], 0.0)
    ones = [1] * (x.ndim - 2)
    return F.conv2d(
        x,
        given[1],
        given[2] if len(given) > 2 else None,
        attribute(node, "strides", ones),
        padding,
        attribute(node, "dilations", ones),
        attribute(node, "group", 1),
    )


def _gemm(node: NodeProto, given: Values) -> Tensor:
    x = given[0].T if attribute(node, "transA", 0) else given[0]
    weight = given[1] if attribute(node, "transB", 0) else given[1].T
    product: Tensor = attribute(node, "alpha", 1.0) * F.linear(x, as_float(weight, x))
    return product + attribute(node, "beta", 1.0) * as_float(given[2], x) if len(given) > 2 else product


def _pool(node: NodeProto, given: Values) -> Tensor:
    average = node.op_type == "AveragePool"
    kernel = attribute(node, "kernel_shape", [])
    strides = attribute(node, "strides", [1] * len(kernel))
    x, padding = _padded(node, given[0], 0.0 if average else -torch.inf)
    if average:
        whole = bool(attribute(node, "count_include_pad", 0))
        return F.avg_pool2d(x, kernel, strides, padding, count_include_pad=whole)
    dilations = attribute(node, "dilations", [1] * len(kernel))
    return F.max_pool2d(x, kernel, strides, padding, dilations, bool(attribute(node, "ceil_mode", 0)))


def _clip(node: NodeProto, given: Values) -> Tensor:
    low, high = (given[slot] if _has(given, slot) else None for slot in (1, 2))
    return torch.clamp(given[0], *(None if bound is None else float(bound) for bound in (low, high)))


def _mean(node: NodeProto, given: Values) -> Tensor:
    axes = attribute(node, "axes", None) if len(given) < 2 else [int(axis) for axis in given[1]]
    out: Tensor = given[0].mean(axes, keepdim=bool(attribute(node, "keepdims", 1)))
    return out


def _norm(node: NodeProto, given: Values) -> Tensor:
    axes = attribute(node, "axes", None) if len(given) < 2 else [int(axis) for axis in given[1]]
    out: Tensor = given[0].norm(dim=axes, keepdim=bool(attribute(node, "keepdims", 1)))
    return out


def _axes(node: NodeProto, given: Values) -> list[int]:
    """Empty where the node names none."""
    return [int(a) for a in (given[1] if _has(given, 1) else attribute(node, "axes", []))]


def _has(given: Values, slot: int) -> bool:
    return len(given) > slot and given[slot] is not None


def _flatten(node: NodeProto, given: Values) -> Tensor:
    """To two dimensions: all before the axis, and all from it on."""
    out: Tensor = given[0].reshape(math.prod(given[0].shape[: attribute(node, "axis", 1)]), -1)
    return out


def _concat(node: NodeProto, given: Values) -> Tensor:
    like = next(value for value in given if isinstance(value, Tensor))
    return torch.cat([as_float(value, like) for value in given], attribute(node, "axis", 1))


def _squeeze(node: NodeProto, given: Values) -> Tensor:
    axes = _axes(node, given)
    out: Tensor = given[0].squeeze(tuple(axes)) if axes else given[0].squeeze()
    return out


def _unsqueeze(node: NodeProto, given: Values) -> Tensor:
    out: Tensor = given[0]
    axes = _axes(node, given)
    for axis in sorted(axis % (out.ndim + len(axes)) for axis in axes):
        out = out.unsqueeze(axis)
    return out


def _reshape(node: NodeProto, given: Values) -> Tensor:
    sizes = [int(size) or given[0].shape[axis] for axis, size in enumerate(given[1])]
    out: Tensor = given[0].reshape(sizes)
    return out


def _pad(node: NodeProto, given: Values) -> Tensor:
    """Constant padding; the widths are ONNX's, all begins and then all ends."""
    rank = given[0].ndim
    widths = [int(given[1][axis + side * rank]) for axis in reversed(range(rank)) for side in (0, 1)]
    return F.pad(given[0], widths, value=float(given[2]) if _has(given, 2) else 0.0)


def _slice(node: NodeProto, given: Values) -> Tensor:
    starts, ends = given[1], given[2]
    axes = given[3] if _has(given, 3) else range(len(starts))
    steps = given[4] if _has(given, 4) else [1] * len(starts)
    place: list[slice] = [slice(None)] * given[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place[int(axis)] = slice(int(start), min(int(end), given[0].shape[int(axis)]), int(step))
    out: Tensor = given[0][tuple(place)]
    return out


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[NodeProto, Values], Tensor]:
    def both(node: NodeProto, given: Values) -> Tensor:
        like = next(value for value in given if isinstance(value, Tensor))
        return compute(as_float(given[0], like), as_float(given[1], like))

    return both


OPERATORS: Mapping[str, Callable[[NodeProto, Values], Tensor]] = {
    "Add": _binary(torch.add),
    "AveragePool": _pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(torch.div),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, given: given[0].mean((2, 3), keepdim=True),
    "HardSigmoid": lambda node, given: torch.clamp(
        given[0] * attribute(node, "alpha", 0.2) + attribute(node, "beta", 0.5), 0, 1
    ),
    "HardSwish": lambda node, given: F.hardswish(given[0]),
    "Identity": lambda node, given: given[0],
    "LeakyRelu": lambda node, given: F.leaky_relu(given[0], attribute(node, "alpha", 0.01)),
    "MaxPool": _pool,
    "Mul": _binary(torch.mul),
    "PRelu": lambda node, given: torch.where(given[0] > 0, given[0], given[0] * as_float(given[1], given[0])),
    "Pad": _pad,
    "ReduceL2": _norm,
    "ReduceMean": _mean,
    "Relu": lambda node, given: F.relu(given[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda node, given: torch.sigmoid(given[0]),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Unsqueeze": _unsqueeze,
}


def put_back(model: ModelProto, values: Mapping[str, Tensor]) -> ModelProto:
    """A copy of `model` with the initializers named in `values` replaced; shapes stay what they were."""
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in values:
            array = values[tensor.name].detach().cpu().float().numpy()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return result
