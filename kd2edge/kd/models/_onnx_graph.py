"""Anybody's ONNX file as a graph that `graph_net` can compute, and which of its tensors a teacher is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import nn

from kd2edge.artifact import has_manifest, open_artifact
from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.load import load_model
from kd2edge.graph.topology import Topology, add_initializer, attribute, element_types, shapes
from kd2edge.kd.graph_net import OPERATORS, leading_to
from kd2edge.kd.net import Shape
from kd2edge.shelves import nearest

PROBABILITIES = ("Softmax", "LogSoftmax")
BATCH_NORM = "BatchNormalization"
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Taken:
    """`original` as it was loaded, and `model`, folded, computing the same tensors under the same names.

    `end` is the output, of a classifier before its softmax; `linear` the layer that makes it, where that is to be the
    head; `pooled` what feeds that layer, else `end`; `fmap` the last map of more than one pixel on the way there.
    `batch` is the number of images it takes at once, 0 where that is free.
    """

    original: ModelProto
    model: ModelProto
    end: str
    linear: nn.Linear | None
    pooled: str
    fmap: str | None
    batch: int


def take(path: Path, shape: Shape, output: str | None, classifier: bool | None) -> Taken:
    """The graph in the file `path` for images of `shape`.

    `output` may name any tensor of it. `classifier` says whether a linear layer that ends it is one; None: if it has as
    many outputs as there are classes. Raises `UserError` for a file that is damaged, outside what can be read or not
    what its manifest says, for operators that are not known, for other images, and where there is no such tensor.
    """
    if has_manifest(path):
        open_artifact(path)
    original = load_model(path)
    _require_images(original, path, shape)
    model = fold(original)
    _free_batch(model)
    end = _end(Topology(model), path, output)
    _require_known(Topology(model), end, path)
    _spread_batch_norms(model)
    graph = Topology(model)
    linear = _linear(graph, end, path, shape.classes, classifier)
    pooled = graph.producer[end].input[0] if linear is not None else end
    batch = int(original.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    return Taken(original, model, end, linear, pooled, _last_map(model, pooled), batch)


def _require_images(model: ModelProto, path: Path, shape: Shape) -> None:
    """The one input must take float32 [N, C, H, W] of the data's size; its sizes are then fixed, but for N."""
    wanted = (shape.channels, *shape.size)
    given = list(model.graph.input)
    kind = given[0].type.tensor_type if len(given) == 1 else None
    dims = list(kind.shape.dim) if kind is not None else []
    taken = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    fits = len(taken) == 4 and all(has in (None, want) for has, want in zip(taken[1:], wanted, strict=True))
    if kind is None or kind.elem_type != TensorProto.FLOAT or not fits:
        what = " and ".join(f"{value.name} {_told(value)}" for value in given) or "nothing"
        size = ", ".join(str(want) for want in wanted)
        raise UserError(
            f"{path} takes {what}, and the data gives float32 images [N, {size}].",
            "set data.size to the teacher's, or export it for such images",
        )
    for dim, want in zip(dims[1:], wanted, strict=True):
        dim.dim_value = want


def _told(value: Any) -> str:
    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type).lower()
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    return f"{name} [{', '.join(dims)}]"


def _free_batch(model: ModelProto) -> None:
    """A graph of a fixed batch writes it into its Reshapes: there 0 takes over whatever batch comes."""
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    graph = Topology(model)
    for node in graph.nodes:
        if node.op_type == "Reshape" and node.input[1] in graph.initializers and dim.dim_value:
            sizes = graph.constant(node.input[1]).copy()
            if len(sizes) and sizes[0] == dim.dim_value:
                sizes[0] = 0
                node.input[1] = add_initializer(model, f"{node.input[1]}_any_batch", sizes)


def _spread_batch_norms(model: ModelProto) -> None:
    """Batch norms that no layer before them could take up become γ/√(σ² + ε) x + β': of a map a 1x1 convolution."""
    known, graph = shapes(model), Topology(model)
    for node in graph.nodes:
        rank = len(known.get(node.input[0], ())) if node.op_type == BATCH_NORM else 0
        if rank < 2 or attribute(node, "training_mode", 0) or not set(node.input[1:]) <= graph.initializers.keys():
            continue
        gamma, beta, mean, variance = (graph.constant(name).astype(np.float64) for name in node.input[1:5])
        gain = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        shift = (beta - mean * gain).astype(np.float32)
        if rank == 4:
            made = _pointwise(model, node, gain.astype(np.float32), shift)
        else:
            made = _affine(model, node, *(v.astype(np.float32).reshape(-1, *[1] * (rank - 2)) for v in (gain, shift)))
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for offset, new in enumerate(made):
            model.graph.node.insert(place + offset, new)


def _pointwise(model: ModelProto, node: NodeProto, gain: Any, shift: Any) -> list[NodeProto]:
    weight = add_initializer(model, f"{node.name}_gain", gain.reshape(-1, 1, 1, 1))
    bias = add_initializer(model, f"{node.name}_shift", shift)
    given = [node.input[0], weight, bias]
    return [helper.make_node("Conv", given, [node.output[0]], node.name, group=len(gain), kernel_shape=[1, 1])]


def _affine(model: ModelProto, node: NodeProto, gain: Any, shift: Any) -> list[NodeProto]:
    names = [add_initializer(model, f"{node.name}_{what}", v) for what, v in (("gain", gain), ("shift", shift))]
    between = f"{node.output[0]}_scaled"
    return [
        helper.make_node("Mul", [node.input[0], names[0]], [between], f"{node.name}_mul"),
        helper.make_node("Add", [between, names[1]], [node.output[0]], node.name),
    ]


def _end(graph: Topology, path: Path, output: str | None) -> str:
    if output is None and len(graph.outputs) > 1:
        raise UserError(
            f"{path} has {len(graph.outputs)} outputs: {', '.join(graph.outputs)}.", "name one as teacher.model.output"
        )
    end = graph.outputs[0] if output is None else output
    if end not in graph.producer:
        known = list(graph.producer)
        raise UserError(
            f"{path} computes no tensor {end!r}{nearest(end, known)}.", f"the last of them: {', '.join(known[-5:])}"
        )
    last = graph.producer[end]
    return last.input[0] if last.op_type in PROBABILITIES and last.input[0] in graph.producer else end


def _require_known(graph: Topology, end: str, path: Path) -> None:
    nodes = leading_to(graph, [end])
    unknown = sorted({_name(n) for n in nodes} - OPERATORS.keys() - {BATCH_NORM})
    if unknown:
        raise cannot(path, f"it has {', '.join(unknown)}, which kd2edge.kd.graph_net does not know")
    for node in nodes:
        if any(graph.readers.get(name) or name == end for name in node.output[1:]):
            raise cannot(path, f"{node.name}, a {node.op_type}, has more than one output")


def _name(node: NodeProto) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def cannot(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be a teacher: {why}.",
        "name a tensor before that as teacher.model.output, export the net again, or take its PyTorch weights",
    )


def _linear(graph: Topology, end: str, path: Path, classes: int, wanted: bool | None) -> nn.Linear | None:
    """The linear layer that makes `end`, if it is a classifier."""
    node = graph.producer[end]
    if not _is_linear(graph, node):
        if wanted:
            raise UserError(
                f"{end!r} of {path} is made by a {node.op_type}, which is no linear layer.",
                "name another tensor as teacher.model.output, or leave teacher.model.classifier out",
            )
        return None
    weight = graph.constant(node.input[1]) * np.float32(attribute(node, "alpha", 1.0))
    weight = weight if attribute(node, "transB", 0) else weight.T
    if wanted is False or (wanted is None and len(weight) != classes):
        return None
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=len(node.input) > 2)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if len(node.input) > 2:
            bias = graph.constant(node.input[2]).reshape(-1) * np.float32(attribute(node, "beta", 1.0))
            linear.bias.copy_(torch.from_numpy(bias))
    return linear


def _is_linear(graph: Topology, node: NodeProto) -> bool:
    """Whether a node is W x + b with constant W and b."""
    if node.op_type != "Gemm" or attribute(node, "transA", 0) or not set(node.input[1:]) <= graph.initializers.keys():
        return False
    outputs = graph.constant(node.input[1]).shape[0 if attribute(node, "transB", 0) else 1]
    return len(node.input) < 3 or graph.constant(node.input[2]).size in (1, outputs)


def _last_map(model: ModelProto, end: str) -> str | None:
    known, types = shapes(model), element_types(model)
    names = [node.output[0] for node in leading_to(Topology(model), [end])]
    maps = [name for name in names if len(dims := known.get(name, ())) == 4 and dims[2:] != (1, 1) and None not in dims]
    return next((name for name in reversed(maps) if types.get(name) == TensorProto.FLOAT), None)
