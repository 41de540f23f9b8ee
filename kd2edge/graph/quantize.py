"""The one Q/DQ inserter, fed by calibration here or by ranges learned in training, and the front that calibrates.

Weights are stored as int8 with a DequantizeLinear each; activations get a QuantizeLinear/DequantizeLinear pair.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.calibrate import Images, collect
from kd2edge.graph.fold import fold
from kd2edge.graph.placement import Coverage, Layer, Plan, Site, make_plan, ranged
from kd2edge.graph.run import session
from kd2edge.graph.scales import Calibrator, Range, affine, fit_bias, quantize_weight, symmetric, weight_scales
from kd2edge.graph.topology import Array, Topology, add_initializer, drop_unread
from kd2edge.schema import Flavour

Scales = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Quantized:
    """A quantized model and how it came about; `images` were used for calibration."""

    model: ModelProto
    coverage: Coverage
    kept: dict[str, str]
    ranges: dict[str, Range]
    flavour: Flavour
    calibrator: Calibrator
    images: int


@dataclass(frozen=True)
class Calibrated:
    """A folded model with all that any choice of its layers needs to become INT8: calibrated once, quantized often."""

    model: ModelProto
    flavour: Flavour
    calibrator: Calibrator
    bits: int
    ranges: dict[str, Range]
    images: int

    def quantized(self, keep: Mapping[str, str] | None = None) -> Quantized:
        """INT8 but for what the policy keeps in float and what `keep` names besides, node name to reason.

        Raises `UserError` when no layer is left to quantize, or the result does not load.
        """
        plan = make_plan(self.model, self.flavour, keep)
        graph = Topology(self.model)
        scales = {
            item.node: weight_scales(graph.constant(item.weight), item.axis, self.calibrator, self.bits)
            for item in plan.layers
        }
        made = insert(self.model, plan, self.ranges, scales, self.bits)
        return Quantized(made, plan.coverage, plan.kept, self.ranges, self.flavour, self.calibrator, self.images)


def quantize_model(
    model: ModelProto,
    batches: Iterable[Images],
    flavour: Flavour,
    calibrator: Calibrator = "mse",
    reduce_range: bool = False,
) -> Quantized:
    """Fold, place, calibrate on `batches` (float32 [N, C, H, W]) and insert.

    `reduce_range` keeps weights to 7 bits for x86 CPUs without VNNI. Raises `UserError` for a model that is quantized
    already, has no layer to quantize or does not load afterwards, and for unusable calibration images.
    """
    return calibrate_model(model, batches, flavour, calibrator, reduce_range).quantized()


def calibrate_model(
    model: ModelProto,
    batches: Iterable[Images],
    flavour: Flavour,
    calibrator: Calibrator = "mse",
    reduce_range: bool = False,
    for_any: bool = False,
) -> Calibrated:
    """What `quantize_model` does before it inserts. `for_any` takes the ranges of what other choices of layers need."""
    folded = fold(model)
    plan = make_plan(folded, flavour)
    tensors = ranged(folded) if for_any else plan.tensors
    ranges, images = collect(folded, tensors, batches, calibrator, signed=flavour == "tensorrt")
    return Calibrated(folded, flavour, calibrator, 7 if reduce_range else 8, ranges, images)


def insert(model: ModelProto, plan: Plan, ranges: Mapping[str, Range], scales: Scales, bits: int = 8) -> ModelProto:
    """A copy of the folded `model` with the Q/DQ of `plan`.

    `ranges` holds a range for each of `plan.tensors`; `scales` the weight scales [output channels] of each layer, by
    node name. The result is checked and loaded once in ONNX Runtime; `UserError` says what is missing or refused.
    """
    missing = [name for name in plan.tensors if name not in ranges] + [
        i.node for i in plan.layers if i.node not in scales
    ]
    if missing:
        raise UserError(f"There is no range for {', '.join(missing)}.")
    result = ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    nodes = {node.name: node for node in result.graph.node}
    pairs = {site.tensor: _activation(result, plan.flavour, site, nodes, ranges[site.ranged_as]) for site in plan.sites}
    weights: list[NodeProto] = []
    for layer in plan.layers:
        node, scale = nodes[layer.node], scales[layer.node]
        if plan.flavour == "ort-x86" and len(node.input) > 2:
            given, _ = affine(ranges[layer.ranged_as])
            scale = fit_bias(scale, constants[node.input[2]], given)
            weights.append(_bias(result, node, constants[node.input[2]], given * scale))
        weights.append(_weight(result, layer, node, constants[layer.weight], scale, bits))
    _splice(result, weights, pairs)
    onnx.checker.check_model(result, full_check=True)
    session(result)
    return result


def _activation(
    model: ModelProto, flavour: Flavour, site: Site, nodes: Mapping[str, NodeProto], limits: Range
) -> list[NodeProto]:
    name = site.tensor
    if flavour == "tensorrt":
        scale, zero = symmetric(limits), np.int8(0)
    else:
        scale, point = affine(limits)
        zero = np.uint8(point)
    parameters = [add_initializer(model, f"{name}_scale", scale), add_initializer(model, f"{name}_zero_point", zero)]
    for reader, slot in site.readers:
        nodes[reader].input[slot] = f"{name}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_quantized"], f"{name}_quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_quantized", *parameters], [f"{name}_dequantized"], f"{name}_dequantize"
        ),
    ]


def _weight(
    model: ModelProto, layer: Layer, node: NodeProto, values: Array, scale: NDArray[np.float32], bits: int
) -> NodeProto:
    return _stored(model, node, 1, quantize_weight(values, scale, layer.axis, bits), scale, layer.axis)


def _bias(model: ModelProto, node: NodeProto, values: Array, scale: NDArray[np.float32]) -> NodeProto:
    """As int32 at the scale of the products: onnxruntime before 1.21 leaves a layer with a float bias in float.

    NVIDIA's parser refuses it, and TensorRT adds a float bias inside the integer kernel.
    """
    return _stored(model, node, 2, np.rint(values / scale.astype(np.float64)).astype(np.int32), scale, 0)


def _stored(
    model: ModelProto, node: NodeProto, slot: int, integers: Array, scale: NDArray[np.float32], axis: int
) -> NodeProto:
    """Store `integers` for the input `slot` of `node`, behind a DequantizeLinear."""
    name = f"{node.name}_{'weight' if slot == 1 else 'bias'}"
    parameters = [
        add_initializer(model, f"{name}_quantized", integers),
        add_initializer(model, f"{name}_scale", scale),
        add_initializer(model, f"{name}_zero_point", np.zeros(len(scale), integers.dtype)),
    ]
    node.input[slot] = f"{name}_dequantized"
    return helper.make_node("DequantizeLinear", parameters, [node.input[slot]], f"{name}_dequantize", axis=axis)


def _splice(model: ModelProto, weights: list[NodeProto], pairs: dict[str, list[NodeProto]]) -> None:
    """Each pair right behind what makes its tensor, the rest in front: nodes stay in topological order."""
    ordered = list(weights)
    for value in model.graph.input:
        ordered += pairs.get(value.name, [])
    for node in model.graph.node:
        ordered.append(node)
        ordered += [new for name in node.output for new in pairs.get(name, [])]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    drop_unread(model)
