"""Post-training quantization: fold, equalize, place, calibrate, choose, insert.

What a user would try on a validation set is tried here on the part of the calibration images that is held out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from onnx import ModelProto

from kd2edge.graph.bias import correct_bias
from kd2edge.graph.calibrate import Images, collect, part
from kd2edge.graph.choose import output_errors
from kd2edge.graph.clip import clip
from kd2edge.graph.equalize import equalize
from kd2edge.graph.fold import fold
from kd2edge.graph.insert import insert
from kd2edge.graph.keep import layers_named
from kd2edge.graph.placement import Coverage, Plan, make_plan, ranged
from kd2edge.graph.scales import Range, Scales, weight_scales
from kd2edge.graph.signature import image_input
from kd2edge.graph.topology import COMPUTE, Array, Topology
from kd2edge.schema import Flavour
from kd2edge.schema.quantize import Calibrator, Clipping

__all__ = ["Calibrated", "Quantized", "Scales", "calibrate_model", "insert", "quantize_model"]


@dataclass(frozen=True)
class Quantized:
    """A quantized model and how it came about.

    Of `images`, `held_out` did not calibrate but judge: `errors` are the candidates' distances to the float output.
    """

    model: ModelProto
    coverage: Coverage
    kept: dict[str, str]
    ranges: dict[str, Range]
    flavour: Flavour
    calibrator: Clipping
    images: int
    corrects_bias: bool = False
    errors: dict[str, float] = field(default_factory=dict)
    held_out: int = 0
    bits: int = 8


@dataclass(frozen=True)
class Calibrated:
    """A folded model with all that any choice of its layers needs to become INT8: calibrated once, quantized often.

    `means` are those of each channel of the tensors that layers read; `errors` and `held_out` are as in `Quantized`.
    """

    model: ModelProto
    flavour: Flavour
    calibrator: Clipping
    bits: int
    ranges: dict[str, Range]
    images: int
    means: dict[str, Array] = field(default_factory=dict)
    corrects_bias: bool = False
    errors: dict[str, float] = field(default_factory=dict)
    held_out: int = 0
    keep: dict[str, str] = field(default_factory=dict)

    def plan(self, keep: Mapping[str, str] | None = None) -> Plan:
        """Where Q/DQ goes; `keep` names nodes that stay in float besides those of the policy and of the settings."""
        return make_plan(self.model, self.flavour, {**self.keep, **(keep or {})})

    def scales(self, plan: Plan, model: ModelProto) -> Scales:
        """The scales of the plan's layers for the weights that `model`, a graph like this one, has."""
        graph = Topology(model)
        return {
            item.node: weight_scales(graph.constant(item.weight), item.axis, self.calibrator, self.bits)
            for item in plan.layers
        }

    def quantized(self, keep: Mapping[str, str] | None = None) -> Quantized:
        """INT8 but for what the policy keeps in float and what `keep` names besides, node name to reason.

        Raises `UserError` when no layer is left to quantize, or the result does not load.
        """
        plan = self.plan(keep)
        scales = self.scales(plan, self.model)
        model = correct_bias(self.model, plan, scales, self.means, self.bits) if self.corrects_bias else self.model
        made = insert(model, plan, self.ranges, scales, self.bits)
        return Quantized(
            made,
            plan.coverage,
            plan.kept,
            self.ranges,
            self.flavour,
            self.calibrator,
            self.images,
            self.corrects_bias,
            self.errors,
            self.held_out,
            self.bits,
        )


@dataclass(frozen=True)
class Remedies:
    """Which of the remedies for channels of unlike ranges are used; "auto" is decided on held-out images.

    `keep` has patterns, as a shell's, of the names of layers that stay in float.
    """

    equalize: bool = True
    correct_bias: Literal["auto"] | bool = "auto"
    keep: tuple[str, ...] = ()


def quantize_model(
    model: ModelProto,
    batches: Iterable[Images],
    flavour: Flavour,
    calibrator: Calibrator = "auto",
    reduce_range: bool = False,
    remedies: Remedies = Remedies(),
) -> Quantized:
    """Fold, place, calibrate on `batches` (float32 [N, C, H, W], iterated several times) and insert.

    `reduce_range` keeps weights to 7 bits for x86 CPUs without VNNI. Raises `UserError` for a model that is quantized
    already, has no layer to quantize or does not load afterwards, and for unusable calibration images.
    """
    return calibrate_model(model, batches, flavour, calibrator, reduce_range, remedies=remedies).quantized()


def calibrate_model(
    model: ModelProto,
    batches: Iterable[Images],
    flavour: Flavour,
    calibrator: Calibrator = "auto",
    reduce_range: bool = False,
    for_any: bool = False,
    remedies: Remedies = Remedies(),
) -> Calibrated:
    """What `quantize_model` does before it inserts. `for_any` takes the ranges of what other choices of layers need."""
    folded = fold(model)
    keep = layers_named(folded, remedies.keep)
    plan = make_plan(folded, flavour, keep)
    group = image_input(folded).batch or 1
    choosing = "auto" in (calibrator, remedies.correct_bias)

    def shown() -> Iterable[Images]:
        return part(batches, held_out=False, group=group) if choosing else batches

    equal = equalize(folded, shown, flavour) if remedies.equalize else folded
    tensors = ranged(equal) if for_any else plan.tensors
    read = [node.input[0] for node in equal.graph.node if node.op_type in COMPUTE]
    seen, images = collect(equal, [*tensors, *read], shown())
    means = {name: seen[name].means for name in read}
    bits, signed = 7 if reduce_range else 8, flavour == "tensorrt"
    candidates = [
        Calibrated(
            equal,
            flavour,
            clipping,
            bits,
            {name: clip(seen[name], clipping, signed) for name in tensors},
            images,
            means,
            keep=keep,
        )
        for clipping in (get_args(Clipping) if calibrator == "auto" else (calibrator,))
    ]
    if choosing:
        return _best(candidates, remedies, lambda: part(batches, held_out=True, group=group))
    return replace(candidates[0], corrects_bias=remedies.correct_bias is True)


def _best(candidates: list[Calibrated], remedies: Remedies, held_out: Callable[[], Iterable[Images]]) -> Calibrated:
    """The candidate of least error, then that with corrected biases if they make it smaller still."""
    always = remedies.correct_bias is True
    tried = {item.calibrator: replace(item, corrects_bias=always) for item in candidates}
    model = candidates[0].model
    errors, images = output_errors(model, {name: item.quantized().model for name, item in tried.items()}, held_out())
    best = tried[min(tried, key=lambda name: errors[name])]
    if remedies.correct_bias == "auto":
        corrected = replace(best, corrects_bias=True)
        name = f"{best.calibrator}, biases corrected"
        error = output_errors(model, {name: corrected.quantized().model}, held_out())[0][name]
        best = corrected if error < errors[best.calibrator] else best
        errors = {**errors, name: error}
    return replace(best, images=best.images + images, errors=errors, held_out=images)
