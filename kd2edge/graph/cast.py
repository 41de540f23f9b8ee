"""FP16 written into the graph: half-precision weights and casts, so that a strongly typed build needs no flag.

Operators whose range or small constants half precision cannot hold stay in float32, and so does every node that makes
or reads a tensor which calibration images drive near 65504 (for what overflows and what underflows in half precision:
Micikevicius et al., arXiv 1710.03740, section 3).
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from kd2edge.graph.calibrate import Images, observe
from kd2edge.graph.fold import fold
from kd2edge.graph.histogram import Extremes
from kd2edge.graph.run import session
from kd2edge.graph.topology import Array, Topology, add_initializer, drop_unread, element_types, opset

FLOAT: int = TensorProto.FLOAT
HALF: int = TensorProto.FLOAT16
LARGEST = float(np.finfo(np.float16).max)
HEADROOM = 2.0  # calibration sees a sample: an unseen image may well be twice as bright inside
HALF_SCALES_SINCE = 19  # the opset from which QuantizeLinear and DequantizeLinear take float16

SUMS = {"ReduceL2", "ReduceLogSumExp", "ReduceProd", "ReduceSum", "ReduceSumSquare", "LpNormalization"}
NORMS = {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization"}
STEEP = {"Div", "Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "Softmax", "Softplus", "Sqrt"}
# The float type of these is an attribute, or one of their inputs is float32 whatever the others are.
FIXED = {"Cast", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "Range", "Resize"}
KEPT = frozenset(SUMS | NORMS | STEEP | FIXED)


def to_fp16(model: ModelProto, batches: Iterable[Images]) -> ModelProto:
    """A folded copy computing in float16, its input and output still float32.

    `batches` (float32 [N, C, H, W]) show which tensors would overflow; what makes or reads those stays in float32. A
    Q/DQ model is taken too: its scales become float16 (at opset 19), so that what is not INT8 is FP16. Raises
    `UserError` for unusable images, as calibration does.
    """
    folded = fold(model)
    quantized = any(node.op_type == "QuantizeLinear" for node in folded.graph.node)
    if quantized and opset(folded) < HALF_SCALES_SINCE:
        folded = onnx.version_converter.convert_version(folded, HALF_SCALES_SINCE)
    del folded.graph.value_info[:]
    types = element_types(folded)
    wide = _kept_in_float32(folded, _overflowing(folded, types, batches))
    _Caster(folded, types).rewrite(wide)
    onnx.checker.check_model(folded, full_check=True)
    session(folded)
    return folded


def _overflowing(model: ModelProto, types: dict[str, int], batches: Iterable[Images]) -> set[str]:
    """The float tensors, the input among them, whose magnitude on `batches` leaves float16 no headroom."""
    names = [model.graph.input[0].name, *Topology(model).producer]
    watched = {name: Extremes() for name in names if types.get(name) == FLOAT}
    observe(model, watched, batches)
    return {name for name, seen in watched.items() if max(-seen.low, seen.high) * HEADROOM > LARGEST}


def _kept_in_float32(model: ModelProto, overflowing: set[str]) -> set[str]:
    """Names of the nodes that float16 would harm."""
    graph = Topology(model)
    return {
        node.name
        for node in graph.nodes
        if node.op_type in KEPT
        or not overflowing.isdisjoint([*node.input, *node.output])
        or any(not _fits(node, graph.constant(name)) for name in node.input if name in graph.initializers)
    }


def _fits(node: NodeProto, values: Array) -> bool:
    """Whether a constant survives float16: no overflow, no ε that becomes 0, no scale off by a part of a step."""
    if values.dtype != np.float32:
        return True
    with np.errstate(over="ignore", under="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return bool((np.abs(half - values) <= np.abs(values) / 512).all())
    return bool(np.isfinite(half).all()) and (values.size > 1 or bool(half.any() or not values.any()))


class _Caster:
    """Rewrites a graph node by node; `held` says under which name a tensor exists in each of the two precisions."""

    def __init__(self, model: ModelProto, types: dict[str, int]) -> None:
        self.model = model
        self.types = types
        self.graph = Topology(model)
        self.held: dict[tuple[str, int], str] = {
            (name, FLOAT): name for name in [*self.graph.inputs, *self.graph.initializers]
        }
        self.ordered: list[NodeProto] = []

    def rewrite(self, wide: set[str]) -> None:
        """Give every node inputs of its own precision: float32 for the names in `wide`, else float16."""
        for node in self.graph.nodes:
            precision = FLOAT if node.name in wide else HALF
            for slot, name in enumerate(node.input):
                if self.types.get(name) == FLOAT:
                    node.input[slot] = self._in(name, precision)
            self.ordered.append(node)
            self._record_outputs(node, precision)
        del self.model.graph.node[:]
        self.model.graph.node.extend(self.ordered)
        drop_unread(self.model)

    def _in(self, name: str, precision: int) -> str:
        """The name of the tensor `name` in `precision`, made on first use."""
        if (name, precision) not in self.held:
            if name in self.graph.initializers:
                half = self.graph.constant(name).astype(np.float16)
                self.held[name, precision] = add_initializer(self.model, f"{name}_fp16", half)
            else:
                other = self.held[name, HALF if precision == FLOAT else FLOAT]
                self.held[name, precision] = self._cast(other, f"{name}_fp{16 if precision == HALF else 32}", precision)
        return self.held[name, precision]

    def _cast(self, source: str, result: str, precision: int) -> str:
        self.ordered.append(helper.make_node("Cast", [source], [result], f"{result}_cast", to=precision))
        return result

    def _record_outputs(self, node: NodeProto, precision: int) -> None:
        for slot, name in enumerate(node.output):
            if self.types.get(name) != FLOAT:
                continue
            self.held[name, precision] = name
            if precision == HALF and name in self.graph.outputs:
                node.output[slot] = self.held[name, HALF] = f"{name}_fp16"
                self.held[name, FLOAT] = self._cast(f"{name}_fp16", name, FLOAT)
