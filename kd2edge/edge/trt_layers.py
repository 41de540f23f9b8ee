"""What the builder made of a graph, layer by layer: which nodes each holds, in which precision, by which tactic.

Read from the engine inspector's JSON (profiling verbosity DETAILED). Its fields are not specified by NVIDIA; those
used here were seen in its documentation and in recordings of 8.5 to 10.x: "Layers" of objects with "Name", "LayerType",
"Inputs"/"Outputs" with "Format/Datatype" ("Datatype" in some), "Weights" with "Type", "TacticName", "TacticValue" and
"Metadata" ("[ONNX Layer: name | function]", separated by the control characters 1E and 1F, or by nothing). A layer of
an engine with less detail is its bare name. What is not understood becomes "unknown", never a guess.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from onnx import GraphProto, NodeProto

from kd2edge.errors import UserError

Kind = Literal["int8", "fp16", "fp32", "other", "unknown"]
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PRODUCT = re.compile(r"conv|gemm|matmul|matrixmultiply|fusion", re.I)
NODE = re.compile(r"\[ONNX Layer: (.*?)(?: \| [^\]]*)?\]")
# The first operand type in a kernel's name, as in sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_...
OPERANDS: tuple[tuple[Kind, str], ...] = (
    ("int8", r"(?:^|_)(?:[iu]8(?:[iuf]\d+)?|s8|int8|imma)(?=_|$)"),
    ("other", r"(?:^|_)(?:bf16|e4m3|e5m2|fp8)"),
    ("fp16", r"(?:^|_)(?:f16(?:f\d+)?|fp16|h\d{3,}\w*?|hmma|hgemm|hcudnn)(?=_|$)"),
    ("fp32", r"(?:^|_)(?:tf32(?:f32|tf32)?|f32(?:f32)?|fp32|sgemm|scudnn|ffma)(?=_|$)"),
)
TYPES: tuple[tuple[Kind, str], ...] = (
    ("int8", r"\bu?int8\b"),
    ("other", r"\b(?:b(?:fp|float)16|fp8|int4|fp4|int32|int64|bool)\b"),
    ("fp16", r"\b(?:half|fp16)\b"),
    ("fp32", r"\b(?:float|fp32)\b"),
)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine. `nodes` are the ONNX nodes it came from, `ms` its mean time where it was profiled."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    precision: Kind
    tactic: str | None
    ms: float | None = None

    @property
    def reformats(self) -> bool:
        return self.kind == "Reformat" or self.name.startswith("Reformatting CopyNode")


def parse_layers(text: str) -> list[Layer]:
    """The layers of `get_engine_information(JSON)`. Raises `UserError` if it is no JSON object with "Layers"."""
    try:
        found = json.loads(text)
        layers = found["Layers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        layers = None
    if not isinstance(layers, list):
        raise UserError("The engine inspector of this TensorRT says nothing that is understood.")
    return [_layer(entry) for entry in layers]


def timed(layers: Iterable[Layer], milliseconds: Mapping[str, float]) -> list[Layer]:
    """The layers with their times, which a profiler reports by layer name."""
    return [replace(layer, ms=milliseconds.get(layer.name)) for layer in layers]


def _layer(entry: object) -> Layer:
    if not isinstance(entry, dict):
        name = entry if isinstance(entry, str) else ""
        return Layer(name, "unknown", _nodes(name, ""), "unknown", None)
    name, tactic = _text(entry.get("Name")), _text(entry.get("TacticName"))
    return Layer(
        name=name,
        kind=_text(entry.get("LayerType")) or "unknown",
        nodes=_nodes(name, _text(entry.get("Metadata"))),
        precision=_precision(entry, tactic),
        tactic=tactic or _text(entry.get("TacticValue")) or None,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    """Of the metadata; where a version leaves it empty, of the name, which joins them: a + PWN(b) + c."""
    named = NODE.findall(metadata)
    if not named:
        named = [re.sub(r"^(?:PWN\()+|\)+$", "", part) if "PWN(" in part else part for part in name.split(" + ")]
    return tuple(dict.fromkeys(part for part in named if part))


def _precision(entry: Mapping[str, object], tactic: str) -> Kind:
    """What the kernel multiplies: told by its name, else by its weights' type, else by what it reads.

    With a dynamic batch the formats are "N/A due to dynamic shapes", unless the inspector was given a shape.
    """
    weights = entry.get("Weights")
    stated = _text(weights.get("Type")) if isinstance(weights, dict) else ""
    return _matching(OPERANDS, tactic) or _matching(TYPES, stated) or _read_type(entry) or "unknown"


def _matching(patterns: Sequence[tuple[Kind, str]], text: str) -> Kind | None:
    """The kind whose pattern comes first in the text."""
    places = [(match.start(), kind) for kind, pattern in patterns if (match := re.search(pattern, text, re.I))]
    return min(places)[1] if places else None


def _read_type(entry: Mapping[str, object]) -> Kind | None:
    for side in ("Inputs", "Outputs"):
        tensors = entry.get(side)
        for tensor in tensors if isinstance(tensors, list) else []:
            said = _text(tensor.get("Format/Datatype") or tensor.get("Datatype")) if isinstance(tensor, dict) else ""
            if kind := _matching(TYPES, said):
                return kind
    return None


def summary(layers: Sequence[Layer], graph: GraphProto) -> dict[str, Any]:
    """Counts of the layers, and whether the engine does what the graph asks for.

    A Conv, Gemm or MatMul that reads dequantized data and weights has to run in INT8: those that run in another
    precision are `int8_missing`, those no layer tells of `int8_unknown`. `fused_adds` counts the residual additions
    (of `adds`) that share a layer with a product.
    """
    expected, adds = set(int8_expected(graph)), residual_adds(graph)
    products = {node.name for node in graph.node if node.op_type in WEIGHTED}
    working = [layer for layer in layers if not layer.reformats]
    ran = {name: _ran_in(name, working) for name in expected}
    counts = {kind: sum(layer.precision == kind for layer in layers) for kind in ("int8", "fp16", "fp32", "other")}
    return {
        "layers": len(layers),
        **counts,
        "unknown": len(layers) - sum(counts.values()),
        "reformats": len(layers) - len(working),
        "int8_expected": len(expected),
        "int8_missing": sorted(name for name, kinds in ran.items() if kinds and "int8" not in kinds),
        "int8_unknown": sorted(name for name, kinds in ran.items() if not kinds),
        "adds": len(adds),
        "fused_adds": sum(any({add} & {*one.nodes} and products & {*one.nodes} for one in working) for add in adds),
    }


def _ran_in(node: str, layers: Sequence[Layer]) -> set[Kind]:
    """Precisions of the layers that hold a product; where some are products by their type, of these alone."""
    holding = [layer for layer in layers if node in layer.nodes]
    holding = [layer for layer in holding if PRODUCT.search(layer.kind)] or holding
    return {layer.precision for layer in holding if layer.precision != "unknown"}


def told(found: Mapping[str, Any]) -> str:
    """The summary as one sentence for people."""
    kinds = ", ".join(f"{found[kind]} {kind.upper()}" for kind in ("int8", "fp16", "fp32") if found[kind])
    sentence = f"{found['layers']} layers ({kinds or 'precisions unknown'}), {found['reformats']} of them reformats"
    if found["adds"]:
        sentence += f"; {found['fused_adds']} of {found['adds']} additions fused"
    if found["int8_expected"]:
        missing, unknown = found["int8_missing"], found["int8_unknown"]
        ran = found["int8_expected"] - len(missing) - len(unknown)
        sentence += f"; {ran} of {found['int8_expected']} quantized products run in INT8"
        sentence += f", not {', '.join(missing[:3])}{' ...' * (len(missing) > 3)}" if missing else ""
        sentence += f", of {len(unknown)} nothing is told" if unknown else ""
    return f"{sentence}."


def int8_expected(graph: GraphProto) -> Iterator[str]:
    """Names of the products of which both factors are dequantized."""
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    shaped = _passed_on(graph, dequantized)
    for node in graph.node:
        if node.op_type in WEIGHTED and {*node.input[:2]} <= shaped:
            yield node.name


def _passed_on(graph: GraphProto, tensors: set[str]) -> set[str]:
    """The tensors, and what only reshapes or transposes them."""
    reached = set(tensors)
    for node in graph.node:  # ONNX graphs are sorted
        if node.op_type in ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze") and node.input[0] in reached:
            reached.add(node.output[0])
    return reached


def residual_adds(graph: GraphProto) -> list[str]:
    """Names of the additions of two computed tensors."""
    constants = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "Add" and not _any_constant(n, constants)]


def _any_constant(node: NodeProto, constants: set[str]) -> bool:
    return any(name in constants for name in node.input)


def table_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.layers.json")


def report(layers: Sequence[Layer], found: Mapping[str, Any]) -> bytes:
    """The file beside the engine: the summary, and a row for each layer in the order they run."""
    rows = [asdict(layer) for layer in layers]
    return json.dumps({"summary": dict(found), "layers": rows}, indent=1).encode()


def inspect(trt: Any, engine: Any, execution: Any) -> str:
    """The inspector's JSON for the shape that `execution` was given: without one, formats of a free batch are left
    out."""
    inspector = engine.create_engine_inspector()
    inspector.execution_context = execution
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layer_times(trt: Any) -> Any:
    """A profiler for an execution context: `mean_ms()` gives the mean of what each layer was reported with."""

    class LayerTimes(trt.IProfiler):  # type: ignore[misc]  # the binding is not typed
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total: dict[str, float] = {}
            self.runs: dict[str, int] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total[layer_name] = self.total.get(layer_name, 0.0) + ms
            self.runs[layer_name] = self.runs.get(layer_name, 0) + 1

        def mean_ms(self) -> dict[str, float]:
            return {name: total / self.runs[name] for name, total in self.total.items()}

    return LayerTimes()
