"""Groups of layers that keep or change their precision together: what a person and a fusing runtime see as one unit.

A residual block, an inverted bottleneck (Sandler et al., arXiv 1801.04381, section 3.3), a depthwise-separable pair
(Howard et al., arXiv 1704.04861, section 3.1), or one layer. Inside such a unit a float layer among integer ones would
cost conversions and gain little.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from onnx import ModelProto, NodeProto

from kd2edge.graph.keep import is_residual
from kd2edge.graph.topology import COMPUTE, Topology, attribute


@dataclass(frozen=True)
class Group:
    """Weighted layers by node name, in the graph's order, under a name that no other group has."""

    name: str
    layers: tuple[str, ...]


def layer_groups(model: ModelProto) -> tuple[Group, ...]:
    """Every weighted layer of a folded float `model` in exactly one group, in the order of their first layers."""
    graph = Topology(model)
    layers = [node for node in graph.nodes if node.op_type in COMPUTE]
    leader = {node.name: node.name for node in layers}
    for unit in [*_residual_blocks(graph), *_bottlenecks(graph), *_separable_pairs(graph)]:
        free = [name for name in unit if leader[name] == name and name not in _followed(leader)]
        leader.update(dict.fromkeys(free, free[0] if free else ""))
    members: dict[str, list[str]] = {}
    for node in layers:
        members.setdefault(leader[node.name], []).append(node.name)
    named = _names(graph, list(members.values()))
    return tuple(Group(name, tuple(found)) for name, found in zip(named, members.values(), strict=True))


def _followed(leader: Mapping[str, str]) -> set[str]:
    """The first layers of groups that have more than one."""
    return {first for name, first in leader.items() if name != first}


def _residual_blocks(graph: Topology) -> Iterator[list[str]]:
    """The layers on one way into an Add and not on the other, innermost Adds first: both branches of a block."""
    for node in graph.nodes:
        if is_residual(graph, node):
            one, other = (_above(graph, name) for name in node.input)
            yield [layer.name for layer in graph.nodes if layer.op_type in COMPUTE and layer.name in one ^ other]


def _above(graph: Topology, tensor: str) -> set[str]:
    """The nodes that a tensor depends on."""
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)
    return found


def _bottlenecks(graph: Topology) -> Iterator[list[str]]:
    """Expansion, depthwise convolution and linear projection, where no Add has made a block of them."""
    for middle in graph.nodes:
        last = _next_pointwise(graph, middle) if _is_depthwise(graph, middle) else None
        if last is not None and _is_linear(graph, last):
            first = _layer_before(graph, middle)
            expands = first is not None and _is_pointwise(graph, first) and not _is_linear(graph, first)
            yield [node.name for node in (first if expands else None, middle, last) if node is not None]


def _separable_pairs(graph: Topology) -> Iterator[list[str]]:
    for node in graph.nodes:
        last = _next_pointwise(graph, node) if _is_depthwise(graph, node) else None
        if last is not None:
            yield [node.name, last.name]


def _is_depthwise(graph: Topology, node: NodeProto) -> bool:
    constant = node.op_type == "Conv" and node.input[1] in graph.initializers
    return constant and 1 < attribute(node, "group", 1) == graph.initializers[node.input[1]].dims[0]


def _is_pointwise(graph: Topology, node: NodeProto) -> bool:
    constant = node.op_type == "Conv" and node.input[1] in graph.initializers
    dims = graph.initializers[node.input[1]].dims if constant else []
    return attribute(node, "group", 1) == 1 and len(dims) == 4 and list(dims[2:]) == [1, 1]


def _is_linear(graph: Topology, node: NodeProto) -> bool:
    """Whether layers and Adds read a layer's output as it is."""
    readers = [reader for reader, _ in graph.readers[node.output[0]]]
    return all(reader.op_type in COMPUTE or is_residual(graph, reader) for reader in readers)


def _next_pointwise(graph: Topology, node: NodeProto) -> NodeProto | None:
    """The 1x1 convolution that alone reads a layer's activated output."""
    reader = graph.only_reader(node.output[0])
    while reader is not None and reader.op_type not in COMPUTE and not is_residual(graph, reader):
        reader = graph.only_reader(reader.output[0])
    return reader if reader is not None and _is_pointwise(graph, reader) else None


def _layer_before(graph: Topology, node: NodeProto) -> NodeProto | None:
    """The layer whose activated output `node` alone reads."""
    maker = graph.producer.get(node.input[0])
    while maker is not None and graph.only_reader(maker.output[0]) is not None:
        if maker.op_type in COMPUTE or is_residual(graph, maker):
            return maker if maker.op_type in COMPUTE else None
        maker = graph.producer.get(maker.input[0])
    return None


def _names(graph: Topology, groups: Sequence[Sequence[str]]) -> list[str]:
    """What the members' names begin with and no other layer's does, else the name of the first member."""
    nodes = {node.name: node for node in graph.nodes}
    parts = {name: _parts(nodes[name]) for group in groups for name in group}
    shared = _beginning(list(parts.values())) if len(groups) > 1 else []
    told: list[str] = []
    for group in groups:
        prefix = _beginning([parts[name] for name in group])
        inside = [name for name in parts if parts[name][: len(prefix)] == prefix]
        telling = len(prefix) > len(shared) and len(inside) == len(group)
        told.append(".".join(prefix[len(shared) :]) if telling else group[0])
    return told if len({*told}) == len(told) else [group[0] for group in groups]


def _beginning(paths: Sequence[Sequence[str]]) -> list[str]:
    same = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
    return [parts[0] for parts in same]


def _parts(node: NodeProto) -> list[str]:
    """The path of the module that a layer was: in its weight's name, or in its own."""
    weight = re.split(r"[./]", node.input[1])
    if len(weight) > 1 and weight[-1].startswith("weight"):
        return weight[:-1]
    return [part for part in re.split(r"[./]", node.name) if part]
