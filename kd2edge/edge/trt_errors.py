"""What TensorRT says when it refuses a graph, told as one sentence with the node, its inputs and the mend.

Its own message names an internal source line; a person needs the ONNX node and what to do about it. Most known cases
were met with TensorRT for RTX 1.7.1 and are pinned by tests that provoke them. "Only activation types", "could not find
any implementation", "target GPU" and out of memory are TensorRT 8 to 10's, from reports to NVIDIA/TensorRT.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import onnx

from kd2edge.errors import UserError

MENDS = (
    (
        r"DequantizeLinear\b.*(has type Int32|only activation types allowed)",
        "quantize with the tensorrt flavour: there a bias stays float",
    ),
    (
        r"Turing|SM75",
        "drop 7.5 from the target's compute_capabilities, or export fp16",
    ),
    (
        r"[Qq]uantized constant",
        "quantize with the tensorrt flavour: there the constant of a Pad stays float",
    ),
    (
        r"must be of same type|must have the same type",
        "cast the inputs of this node to one type: a strongly typed network converts nothing by itself",
    ),
    (
        r"[Nn]on-zero zero point|only supports symmetric quantization",
        "quantize with the tensorrt flavour: there zero points are 0",
    ),
    (
        r"Scale coefficients must all be positive",
        "quantize again: a step of 0 means that no calibration image reached this tensor",
    ),
    (
        r"dimension failed to broadcast",
        "weights and input do not fit: export the model again",
    ),
    (
        r"Could not find any implementation for node",
        "give the builder more workspace (workspace_mib of the target), or take another version of TensorRT",
    ),
    (
        r"Target GPU SM \d+ is not supported|SM \d+ is not supported",
        "this TensorRT has no code for this GPU: on a Jetson take the one of JetPack",
    ),
    (
        r"OutOfMemory|[Oo]ut of memory|memory .*could not be allocated",
        "close what else uses the GPU, or make workspace_mib or batch.max of the target smaller",
    ),
    (
        r"UNSUPPORTED_NODE|Plugin not found",
        "this TensorRT has no such operator: write it with others in the model, and export again",
    ),
)
GENERIC = "check that the file runs in ONNX Runtime; if it does, write this node with other operators"
NO_DRIVER = r"cudaError (35|100)\b"


def refusal(label: str, path: Path, complaints: Sequence[str], node: int | None = None) -> UserError:
    """The `UserError` for a graph that `label` refuses: `complaints` as logged, `node` its index where known."""
    text = "\n".join(line for line in "\n".join(complaints).splitlines() if not re.search(NO_DRIVER, line))
    graph = _graph(path)
    found = _culprit(graph, node, text) if graph else None
    described = _describe(graph, found) if graph and found else "the graph"
    evidence = f"{found.op_type if found else ''} {text}"
    return UserError(f"{label} refuses {described} of {path.name}: {_sentence(text)}.", _mend(evidence))


def _mend(evidence: str) -> str:
    flat = " ".join(evidence.split())
    return next((mend for pattern, mend in MENDS if re.search(pattern, flat)), GENERIC)


def _graph(path: Path) -> onnx.GraphProto | None:
    try:
        model = onnx.load(str(path), load_external_data=False)
        return onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # an unreadable file is what the complaint is about already
        return None


def _culprit(graph: onnx.GraphProto, node: int | None, text: str) -> onnx.NodeProto | None:
    """The node of that index, else the first one that the message names, itself or by a tensor it reads."""
    nodes: list[onnx.NodeProto] = list(graph.node)
    if node is not None and 0 <= node < len(nodes):
        return nodes[node]
    named = set(re.findall(r"['(]([^'()\s]+)[')]", text))
    by_name = [candidate for candidate in nodes if candidate.name in named]
    by_input = [candidate for candidate in nodes if named.intersection(candidate.input)]
    return next(iter(by_name or by_input), None)


def _describe(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    known = _types(graph)
    inputs = ", ".join(f"{name} {known.get(name, '')}".strip() for name in node.input if name)
    return f"node {node.name or node.output[0]!r} ({node.op_type}; inputs: {inputs})"


def _types(graph: onnx.GraphProto) -> dict[str, str]:
    types = {i.name: f"{onnx.TensorProto.DataType.Name(i.data_type).lower()} {list(i.dims)}" for i in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        tensor = value.type.tensor_type
        dims = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
        shape = ", ".join(str(dim) for dim in dims)
        types[value.name] = f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} [{shape}]"
    return types


def _sentence(text: str) -> str:
    """The line that carries the reason, without TensorRT's own source lines and error numbers."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Invalid Node")]
    if not lines or lines[0] == "false":
        return "it is not supported"
    line = re.sub(r"^.*?Error Code \d+: [\w ]+ \((.*)\)$", r"\1", lines[0])
    line = re.sub(r"^\[[\w.]+:\d+: \w+\] ", "", line)
    return re.sub(r"\.? In \w+ at \S+:\d+$", "", line).rstrip(". ")
