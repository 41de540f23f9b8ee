"""Which layers stay in float, and why: the reasons a person reads beside a plan."""

import fnmatch
from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from kd2edge.errors import UserError
from kd2edge.graph.topology import COMPUTE, Shape, Topology, attribute
from kd2edge.schema import Flavour
from kd2edge.shelves import nearest

ACTIVATIONS = ("Relu", "Clip", "PRelu", "LeakyRelu")
KERNELS: dict[Flavour, tuple[str, ...]] = {"tensorrt": ("Conv", "ConvTranspose", "Gemm"), "ort-x86": ("Conv", "Gemm")}


def kept_in_float(graph: Topology, known: dict[str, Shape], flavour: Flavour) -> dict[str, str]:
    """Node name to reason, for every weighted layer that is not to be quantized."""
    kept: dict[str, str] = {}
    for node in last_layers(graph):
        # It is a small share of the work, and its error reaches the embedding or the logits undamped.
        kept[node.name] = "it produces the output"
    for node in graph.nodes:
        if is_global_depthwise(node, known):
            kept.setdefault(node.name, "it is a global depthwise convolution")
    for name in outlier_tensors(graph, known):
        maker = graph.producer.get(name)
        if flavour == "ort-x86" and maker is not None and maker.op_type in COMPUTE:
            # Here an integer layer must quantize its output too; TensorRT may leave that in float.
            kept.setdefault(maker.name, "it feeds a global depthwise convolution")
    for node in graph.nodes:
        reason = _unfit(graph, node, flavour) if node.op_type in COMPUTE else None
        if reason is not None:
            kept.setdefault(node.name, reason)
    return kept


def layers_named(model: ModelProto, patterns: Iterable[str]) -> dict[str, str]:
    """The weighted layers whose names, or whose weights' names, match a shell's patterns, with that for a reason.

    Raises `UserError` for a pattern that no layer matches.
    """
    layers = [node for node in model.graph.node if node.op_type in COMPUTE]
    found: dict[str, str] = {}
    for pattern in patterns:
        matching = [layer.name for layer in layers if fnmatch.filter([layer.name, layer.input[1]], pattern)]
        if not matching:
            weights = [layer.input[1] for layer in layers]
            hint = f"its layers' weights: {', '.join(weights[:4])}, …"
            raise UserError(f"No layer is called {pattern!r}{nearest(pattern, weights)}.", hint)
        found |= dict.fromkeys(matching, "the settings keep it")
    return found


def is_global_depthwise(node: NodeProto, known: dict[str, Shape]) -> bool:
    """A convolution with one filter per channel as large as the feature map it sees."""
    if node.op_type != "Conv" or len(known.get(node.input[0], ())) != 4:
        return False
    _, channels, *size = known[node.input[0]]
    return attribute(node, "group", 1) == channels != 1 and list(known[node.input[1]][2:]) == size


def outlier_tensors(graph: Topology, known: dict[str, Shape]) -> list[str]:
    """What global depthwise convolutions read, and the same before its activation: tensors never to quantize.

    Each channel there is summed over the whole map on its own, so all of them matter, but a few outlier channels (108
    against a median maximum of 0.9 in a MobileFaceNet) would leave the others no resolution.
    """
    found: list[str] = []
    for node in graph.nodes:
        if is_global_depthwise(node, known):
            maker: NodeProto | None = node
            while maker is not None and (maker is node or maker.op_type in ACTIVATIONS):
                found.append(maker.input[0])
                maker = graph.producer.get(maker.input[0])
    return found


def last_layers(graph: Topology) -> list[NodeProto]:
    """The weighted layers with nothing but norms, pooling, reshapes and the like between them and the first output."""
    found: dict[str, NodeProto] = {}
    waiting = [graph.outputs[0]]
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is not None and node.op_type in COMPUTE:
            found[node.name] = node
        elif node is not None and not is_residual(graph, node):
            waiting.extend(name for name in node.input if name in graph.producer)
    return list(found.values())


def is_residual(graph: Topology, node: NodeProto) -> bool:
    """An Add of two tensors that both depend on the image."""
    return node.op_type == "Add" and not any(name in graph.initializers for name in node.input)


def _unfit(graph: Topology, node: NodeProto, flavour: Flavour) -> str | None:
    if node.op_type not in KERNELS[flavour]:
        return f"{flavour} quantizes {', '.join(KERNELS[flavour])} only"
    if any(name not in graph.initializers for name in node.input[1:]):
        return "its weights are not constant"
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) != (1.0, 1.0):
        return "its alpha or beta is not 1"
    return _slow_in_tensorrt(graph, node) if flavour == "tensorrt" and node.op_type == "Conv" else None


def _slow_in_tensorrt(graph: Topology, node: NodeProto) -> str | None:
    """What INT8 does not speed up: by shape, those that NVIDIA's quantizer (Model Optimizer) leaves out as well."""
    outputs, inputs, *kernel = graph.constant(node.input[1]).shape
    if attribute(node, "group", 1) == 1:
        return "it has few channels" if min(outputs, inputs) < 16 and (outputs % 8 or inputs % 8) else None
    if outputs % 8 or max(kernel) < 3:
        return "it is grouped, with few channels or a small kernel"
    return None
