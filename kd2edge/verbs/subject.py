"""A float model made ready to be quantized in any choice of its groups of layers, and judged."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from kd2edge import drawers
from kd2edge.artifact import Artifact
from kd2edge.edge import devices
from kd2edge.errors import UserError
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.groups import Group, layer_groups
from kd2edge.graph.load import load_model
from kd2edge.graph.quantize import Calibrated, Quantized, Remedies, calibrate_model
from kd2edge.graph.scales import has_vnni
from kd2edge.graph.topology import COMPUTE
from kd2edge.run import Run, open_run
from kd2edge.schema import Quantize, Target
from kd2edge.schema.search import Choice, Conditions
from kd2edge.verbs.images import completed, data_for, open_data, training_batches
from kd2edge.verbs.journal import locked
from kd2edge.verbs.judge import Judge
from kd2edge.verbs.models import Say, is_run, open_model, refuse_for_a_run
from kd2edge.verbs.quantize import DEFAULT_TARGET

IMAGES = 2000
TO_CAST = 64  # images that show what would overflow in FP16
LEFT_OUT = "the search left its group in float"


@dataclass(frozen=True)
class Subject:
    """A float model ready to be quantized in any choice of its groups, and the images it is judged by.

    `groups` hold what the target's policy quantizes, `kept` the layers it does not, with the reasons.
    """

    model: Artifact
    run: Run | None
    target: Target
    target_name: str
    plan: Quantize
    seed: int
    calibrated: Calibrated
    every: tuple[Group, ...]
    kept: Mapping[str, str]
    judge: Judge

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The layers that may be INT8, by group, in the graph's order."""
        left = {group.name: tuple(n for n in group.layers if n not in self.kept) for group in self.every}
        return {name: layers for name, layers in left.items() if layers}

    @property
    def folder(self) -> Path:
        """Where its journal and its reports lie: in the run, or beside the model."""
        name = f"search-{Path(self.target_name).stem}"
        return self.run.path / name if self.run else self.model.path.with_name(f"{self.model.path.stem}.{name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder, and out of the run."""
        with locked(self.folder), self.run.lock() if self.run else nullcontext():
            yield

    def quantized(self, choice: Choice) -> Quantized:
        """The graph in which the groups of `choice`, at least one, are INT8 and nothing else is."""
        wanted = {layer for name in choice.int8 for layer in self.groups[name]}
        others = [n for layers in self.groups.values() for n in layers if n not in wanted]
        return self.calibrated.quantized(dict.fromkeys(others, LEFT_OUT))

    def graph(self, choice: Choice) -> ModelProto:
        """The graph of any choice; FP32 is the model as it came."""
        made = self.quantized(choice).model if choice.int8 else load_model(self.model.path)
        if choice.rest == "fp32":
            return made
        source = open_data(data_for(self.model, None))
        return to_fp16(made, training_batches(self.model, source, TO_CAST, self.seed, lambda sentence: None))

    def conditions(self) -> Conditions:
        return Conditions(
            model=self.model.path.name,
            sha256=self.model.manifest.sha256,
            target=self.target_name,
            metric=self.judge.metric,
            images=self.judge.told,
            quantize=self.plan.model_dump(mode="json"),
            groups=self.groups,
            kept=dict(self.kept),
            device=devices.fingerprint(),
            versions=devices.versions(),
        )

    def settings(self) -> dict[str, Any]:
        """What a measurement depends on beside the choice and how it is made."""
        device = devices.fingerprint()
        return {
            "model": self.model.manifest.sha256,
            "target": self.target.model_dump(mode="json"),
            "quantize": self.plan.model_dump(mode="json"),
            "bits": self.calibrated.bits,
            "seed": self.seed,
            "ranges": {name: [f"{r.low:.6g}", f"{r.high:.6g}"] for name, r in self.calibrated.ranges.items()},
            "judge": [self.judge.metric, self.judge.fingerprint()],
            "device": {key: device.get(key) for key in devices.IDENTITY},
            "versions": devices.versions(),
        }


def subject(
    source: Path,
    target: str | None,
    data: Path | None,
    images: int,
    preprocess: str | None,
    task: str | None,
    say: Say,
    remedies: bool = True,
) -> Subject:
    """A run's FP32 student, or an ONNX file, calibrated for any choice of its groups.

    The arguments are those of `quantize`; `images` is the most to judge by, and without `remedies` channels are neither
    equalized nor their biases corrected. Raises `UserError` as `quantize` does.
    """
    changes = {} if remedies else {"equalize": False, "correct_bias": False}
    if is_run(source):
        refuse_for_a_run(data=data, preprocess=preprocess, task=task)
        run = open_run(source)
        recipe = run.recipe
        plan = recipe.quantize.model_copy(update=changes)
        return _ready(run.artifact("fp32"), run, target or recipe.target, plan, recipe.seed, images, say)
    model = open_model(source, preprocess, say)
    plugin = data_for(model, data)
    model = completed(model, plugin, open_data(plugin), task)
    return _ready(model, None, target or DEFAULT_TARGET, Quantize().model_copy(update=changes), 0, images, say)


def _ready(model: Artifact, run: Run | None, name: str, plan: Quantize, seed: int, images: int, say: Say) -> Subject:
    target = drawers.read_target(name)
    if "int8" not in target.precisions:
        raise UserError(f"The target {name} has no INT8.", "kd2edge list targets")
    source = open_data(data_for(model, None))
    batches = training_batches(model, source, plan.images, seed, say)
    judge = Judge(model, source, images, max(plan.images, len(batches)), seed)
    reduce_range = target.flavour == "ort-x86" and not has_vnni()
    say(f"Calibrating {model.path.name} on {len(batches)} images; judging by {judge.told}.")
    if judge.seen:
        say("The net may have learned these images: on new ones it may lose more. A validation split would tell.")
    remedies = Remedies(plan.equalize, plan.correct_bias, plan.keep)
    floats = load_model(model.path)
    calibrated = calibrate_model(
        floats, batches, target.flavour, plan.calibrator, reduce_range, for_any=True, remedies=remedies
    )
    kept = calibrated.plan().kept
    weighted = {node.name for node in calibrated.model.graph.node if node.op_type in COMPUTE}
    kept = {name: reason for name, reason in kept.items() if name in weighted}
    groups = layer_groups(calibrated.model)
    return Subject(model, run, target, name, plan, seed, calibrated, groups, kept, judge)
