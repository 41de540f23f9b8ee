"""What a YAML of each drawer may say: Recipe, Target, Suite, Study.

Unknown keys are refused, and all faults are told at once.
"""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Precision = Literal["fp32", "fp16", "int8"]
Flavour = Literal["tensorrt", "ort-x86"]
TaskName = Literal["classification", "verification"]


class Section(BaseModel):
    """A part of a YAML file: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Plugin(BaseModel):
    """A plug-in by name, with its own options beside the name; its `Config` validates them."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Preprocessing(Section):
    """What stands between an image file and a network's input, as constants that an artifact's manifest can carry.

    `size` is (H, W); `mean` and `std`, one number per channel, are in units of pixel / 255; `decoder` names the
    library, its version and the resize filter: "pillow 13.0.0/box".
    """

    size: tuple[int, int]
    channels: int
    color: Literal["L", "RGB"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decoder: str

    @model_validator(mode="after")
    def _one_constant_per_channel(self) -> "Preprocessing":
        channels = {"L": 1, "RGB": 3}[self.color]
        if not self.channels == len(self.mean) == len(self.std) == channels:
            raise ValueError(f"{self.color} images need channels = {channels}, with one mean and one std each")
        if min(self.std) <= 0 or min(self.size) < 1:
            raise ValueError("every std and both sides of the size must be positive")
        return self


class Head(Section):
    """The classifier: `linear`, or a cosine head with scale s and margin m (ArcFace 1801.07698, CosFace 1801.09414)."""

    name: Literal["linear", "cosine", "arcface", "cosface"] = "linear"
    scale: float = Field(32.0, gt=0)
    margin: float = Field(0.3, ge=0, lt=1.6)


class NetSpec(Section):
    """Backbone, neck and head. `embedding: null` hands the pooled features to the head as they are."""

    model: Plugin
    neck: Literal["gap", "gdc"] = "gap"
    embedding: int | None = Field(None, ge=2)
    head: Head = Head()


class Affine(Section):
    """Random affine maps: rotation and shear in degrees, scale in and out, translation as a share of the size."""

    degrees: float = Field(0.0, ge=0, le=180)
    shear: float = Field(0.0, ge=0, le=45)
    scale: float = Field(0.0, ge=0, lt=1)
    translate: float = Field(0.0, ge=0, lt=0.5)


class Augment(Section):
    affine: Affine | None = None
    flip: bool = False
    crop_padding: int = Field(0, ge=0)


class Train(Section):
    """A schedule. Times are in epochs; `precision: auto` is bf16 where the processor has it, else fp32."""

    epochs: int = Field(ge=1)
    batch: int = Field(128, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = Field(0.0, ge=0)
    milestones: tuple[float, ...] = ()
    gamma: float = Field(0.1, gt=0, le=1)
    clip: float | None = Field(None, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    augment: Augment = Augment()


class Teacher(NetSpec):
    """The net that teaches. `weights`: an embedded name, a checkpoint's path, or null to train it anew by `train`.

    `seed` is for its own training, by default the recipe's. `remember` keeps its embeddings of the augmented images
    beside the run, for runs that see the same ones again: N x d values an epoch.
    """

    weights: str | None = None
    train: Train | None = None
    seed: int | None = Field(None, ge=0)
    remember: bool = False


class Quantize(Section):
    """Static post-training quantization: how ranges are chosen and from how many training images."""

    calibrator: Literal["minmax", "mse"] = "mse"
    images: int = Field(512, ge=1)


class Recipe(Section):
    """One YAML of `recipes/`: a teacher, a student, a method, a data set, a schedule, a quantization plan."""

    about: str
    task: TaskName
    seed: int = Field(0, ge=0)
    data: Plugin
    teacher: Teacher | None = None
    student: NetSpec
    method: Plugin
    train: Train
    quantize: Quantize = Quantize()
    compare: tuple[str, ...] = ()
    target: str = "onnx-cpu"
    suite: str = "default"


class BatchRange(Section):
    """Optimization profile of the batch dimension."""

    min: int = Field(1, ge=1)
    opt: int = Field(1, ge=1)
    max: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "BatchRange":
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch needs min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class Target(Section):
    """One YAML of `export/`: a device, its back end, what it can run and how its engines are built."""

    about: str
    backend: str
    flavour: Flavour
    precisions: tuple[Precision, ...]
    batch: BatchRange = BatchRange()
    threads: int = Field(1, ge=1)
    opset: int = Field(18, ge=13, le=20)
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = Field(None, ge=1)
    notes: tuple[str, ...] = ()


class Latency(Section):
    """The latency protocol: single stream, a fresh process, warm-up by time and by stability of the median."""

    batch: int = Field(1, ge=1)
    warmup_ms: float = Field(200.0, ge=0)
    seconds: float = Field(10.0, gt=0)
    min_samples: int = Field(662, ge=1)


class Rule(Section):
    """One condition a model must meet to ship.

    Exactly one bound: `at_least` or `at_most` on the number itself, or, against another row (`versus`), `drop_at_most`
    and `rise_at_most` in the metric's own unit, or `ratio_at_most`. `advice` rules never hold: they recommend.
    """

    metric: str
    of: str
    why: str
    versus: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    drop_at_most: float | None = None
    rise_at_most: float | None = None
    ratio_at_most: float | None = None
    advice: bool = False

    @model_validator(mode="after")
    def _one_bound(self) -> "Rule":
        absolute = [self.at_least, self.at_most]
        relative = [self.drop_at_most, self.rise_at_most, self.ratio_at_most]
        given = [bound for bound in absolute + relative if bound is not None]
        if len(given) != 1:
            raise ValueError(f"a rule has exactly one bound, this one has {len(given)}")
        if (self.versus is None) != all(bound is None for bound in relative):
            raise ValueError("`versus` goes with drop_at_most, rise_at_most or ratio_at_most, and they with it")
        return self


class Suite(Section):
    """One YAML of `benchmarks/suites/`: what to measure, and the rules a model must meet to ship.

    `split: val` is for choosing between recipes; what ships is judged on "test".
    """

    about: str
    split: Literal["test", "val"] = "test"
    latency: Latency = Latency()
    rules: tuple[Rule, ...]


Overrides = dict[str, Any]  # dotted key of a recipe → value


class Search(Section):
    """How settings are chosen: a row's trials, one run each, judged by the study's metric on a suite's split.

    `set` goes on top of the study's own, for trials alone: what keeps the split that they are judged on untrained on.
    """

    set: Overrides = Field(default_factory=dict)
    suite: str = "selection"
    seed: int = Field(0, ge=0)


class StudyRow(Section):
    """A row: a whole method section and further settings, of which `trials` are alternatives to choose one from.

    `baseline` is the row that trains the same student without a teacher.
    """

    about: str
    method: Plugin
    set: Overrides = Field(default_factory=dict)
    trials: tuple[Overrides, ...] = ()
    baseline: str = "plain"


class Study(Section):
    """One YAML of `benchmarks/studies/`: rows times seeds, each a run of a recipe with changes, in one table."""

    about: str
    recipe: str
    set: Overrides = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    metric: str
    suite: str = "study"
    target: str = "onnx-cpu"
    rows: dict[str, StudyRow]
    search: Search | None = Field(None, validate_default=True)

    @field_validator("seeds")
    @classmethod
    def _told_apart(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len({*seeds}) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds are different from each other, and none is negative")
        return seeds

    @field_validator("rows")
    @classmethod
    def _named_and_complete(cls, rows: dict[str, StudyRow]) -> dict[str, StudyRow]:
        faults = [f"{name!r} is no name for a row" for name in rows if not _is_row_name(name)]
        faults += [
            f"there is no row {name!r}, and all are compared with it" for name in ("plain", "kd") if name not in rows
        ]
        strays = [(name, row.baseline) for name, row in rows.items() if row.baseline not in rows]
        faults += [f"the baseline of {name}, {baseline!r}, is no row" for name, baseline in strays]
        if faults:
            raise ValueError("; ".join(faults))
        return rows

    @field_validator("search")
    @classmethod
    def _alike_for_every_row(cls, search: Search | None, info: ValidationInfo) -> Search | None:
        counts = {name: len(row.trials) for name, row in info.data.get("rows", {}).items()}
        if search is None and any(counts.values()):
            raise ValueError("rows have trials, and nothing says how they are judged")
        if search is not None and counts and len({*counts.values()} | {0}) != 2:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"every row needs the same number of trials, at least one: {told}")
        return search


def _is_row_name(name: str) -> bool:
    """Whether a name is safe as a folder's, and none that a study's results use themselves."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) is not None and name not in ("search", "teacher")
