"""The contract of a distillation method: the stages it trains, and what it ships.

The stages come from a generator, so that one stage is prepared after the one before it has trained.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import isfunction
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kd2edge import schema, shelves
from kd2edge.errors import UserError
from kd2edge.kd import weights
from kd2edge.kd.net import Backbone, Net, Out, Shape, build
from kd2edge.kd.tasks import Task


@dataclass(frozen=True)
class Batch:
    """Augmented, normalised images [N, C, H, W] float32 and labels [N] int64.

    `embedding` is the teacher's on these very images [N, d], where an earlier run kept it (`kd/recall.py`); where it
    did not, `keep` takes it.
    """

    images: Tensor
    labels: Tensor
    embedding: Tensor | None = None
    keep: Callable[[Tensor], None] | None = None


Losses = dict[str, Tensor]


@dataclass
class Stage:
    """One training. `losses` gives the weighted terms of one batch, by name; the loop sums and minimises them.

    `learner` is trained and saved (only parameters that require gradients change); `frozen` modules are kept in
    evaluation mode. `schedule` defaults to the recipe's, `share` scales its number of epochs. `watch` gives further
    figures for each epoch's line of the log. Two stages of equal `stream` (by default the name) see the same images in
    the same order.

    `minimises` says what the losses are besides the modules, in words that change when they do. A stage that says it is
    found by its content: a run beside this one that would train the very same takes it over (`kd/store.py`).
    `taught_by` names the teacher whose embeddings may be kept for other runs that see the same images.
    """

    name: str
    learner: nn.Module
    losses: Callable[[Batch], Losses]
    frozen: tuple[nn.Module, ...] = ()
    share: float = 1.0
    schedule: schema.Train | None = None
    watch: Callable[[], Mapping[str, float]] | None = None
    stream: str | None = None
    minimises: str | None = None
    taught_by: Net | None = None


@dataclass(frozen=True)
class Lesson:
    """What a method is given: task, images' shape, and the sections of the recipe that describe nets and schedule.

    `student` is built anew from its section unless one is given, by `seed`, and starts from `student_weights` where
    these are named; `teacher` is frozen. `latency` tells what a net takes for one image, in ms, on this machine.
    """

    task: Task
    shape: Shape
    student_spec: schema.NetSpec
    teacher: Net | None = None
    teacher_spec: schema.Teacher | None = None
    plan: schema.Train | None = None
    seed: int = 0
    latency: Callable[[Net], float] | None = None
    student_weights: str | None = None
    student: Net = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.student is None:
            object.__setattr__(self, "student", self.fresh_student())

    def fresh_student(self) -> Net:
        """A student as it is before any training; always the same one. Raises `UserError` for unfit weights."""
        torch.manual_seed(self.seed)
        student = build(self.student_spec, self.shape)
        if self.student_weights is not None:
            weights.load_into(student, self.student_weights)
        return student

    def fresh_teacher(self, seed: int | None = None) -> Net:
        """The teacher's net as it is before any training. Raises `UserError` when the recipe has no teacher."""
        if self.teacher_spec is None:
            raise no_teacher()
        torch.manual_seed(self.seed if seed is None else seed)
        return build(self.teacher_spec, self.shape)

    def untrained_teacher(self) -> Net:
        """The same without pretrained weights, whatever the recipe says."""
        if self.teacher_spec is None:
            raise no_teacher()
        options = self.teacher_spec.model.options
        bare = {
            "name": self.teacher_spec.model.name,
            **options,
            **({"pretrained": False} if "pretrained" in options else {}),
        }
        spec = self.teacher_spec.model_copy(update={"model": schema.Plugin.model_validate(bare)})
        made = replace(self, teacher_spec=spec).fresh_teacher()
        if isinstance(made.backbone, Backbone) and made.backbone.pretrained:
            raise UserError("An ONNX teacher cannot be trained from scratch.", "set method.teacher: tuned")
        return made


class Method:
    """Base of the methods shelf: one subclass per file, whose `Config` is the recipe's `method` section."""

    class Config(shelves.PluginConfig):
        """Its section of a recipe."""

    needs_teacher: ClassVar[bool] = True
    reads_map: ClassVar[bool] = False  # whether its losses look at the student's feature map
    shards: ClassVar[bool] = False  # whether its losses compare logits by `Head.cross_entropy` and `Head.kl` alone

    def __init__(self, config: Any, lesson: Lesson) -> None:
        self.config, self.lesson = config, lesson
        self.task, self.shape, self.student = lesson.task, lesson.shape, lesson.student
        if self.needs_teacher and lesson.teacher is None:
            raise no_teacher()

    @property
    def teacher(self) -> Net:
        """The frozen teacher. Raises `UserError` when the recipe has none."""
        if self.lesson.teacher is None:
            raise no_teacher()
        return self.lesson.teacher

    def stages(self) -> Iterator[Stage]:
        """The trainings, in order."""
        raise NotImplementedError

    def last_stage(self) -> Stage:
        """The stage that trains what ships, for the modules as they are now: quantization-aware training repeats it."""
        *_, last = self.stages()
        return last

    def trained(self) -> Net:
        """The net that the losses of the last stage run, whose backbone and neck ship. Default: the student."""
        return self.student

    def deployable(self) -> Net:
        """The net that ships. Default: the student."""
        return self.student

    def exhibits(self) -> dict[str, Net]:
        """Further nets that were trained on the way and are worth measuring, by role."""
        return {}

    def account(self) -> dict[str, Any]:
        """What a user should know about what ships, as JSON; it goes into the manifest."""
        return {}

    def words(self) -> str:
        """What its losses depend on besides the nets, for `Stage.minimises`: its options, and its file as it is now.

        So are the files of the methods that it is made from.
        """
        written = [function for kind in type(self).__mro__ for function in vars(kind).values() if isfunction(function)]
        files = sorted({Path(function.__code__.co_filename) for function in written})
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        return f"{' '.join(digests)} {self.config.model_dump_json()}"

    def taught(self, batch: Batch) -> Out:
        """The teacher's outputs on a batch, without gradients."""
        with torch.no_grad():
            out: Out = self.teacher(batch.images)
        return out

    def answers(self, batch: Batch) -> "Answers":
        """Like `taught` without the feature map, which need not be computed where the embedding was kept."""
        with torch.no_grad():
            if batch.embedding is not None:
                embedding = batch.embedding
            else:
                embedding = self.taught(batch).embedding
                if batch.keep is not None:
                    batch.keep(embedding)
            return Answers(embedding, self.teacher.head(embedding))


@dataclass(frozen=True)
class Answers:
    """A teacher's `embedding` [N, d] and `logits` [N, classes]."""

    embedding: Tensor
    logits: Tensor


def no_teacher() -> UserError:
    return UserError("This method learns from a teacher, and the recipe has none.", "add a `teacher` section")


def configured(section: schema.Plugin) -> tuple[type[Method], Any]:
    """The plug-in that a `method` section names, and its options. Raises `UserError`, or `Faults` for faulty keys."""
    plugin = shelves.load(shelves.METHODS, section.name, Method)
    return plugin, shelves.configure(plugin.Config, section.options, f"method {section.name}")


def make(section: schema.Plugin, lesson: Lesson) -> Method:
    """The method of a `method` section, on a lesson. Raises as `configured` does, and where nets do not fit."""
    plugin, config = configured(section)
    return plugin(config, lesson)
