"""SH-KD: a teacher made for its student, trained under the student's frozen classifier. arXiv 2201.06945.

Three stages in one recipe: a student, for its head; the teacher under that head; and a second student, by any method.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator

from kd2edge import schema
from kd2edge.errors import UserError
from kd2edge.kd.heads import worn
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage, configured, make
from kd2edge.kd.net import Net, adapter, behind, freeze
from kd2edge.shelves import PluginConfig


class SHKD(Method):
    """I0: train a student, keep its classifier θ_s. I1: train the teacher by CE with θ_s as its classifier, frozen.

    I2: distil that teacher into a fresh student. The released code leaves the second student a head of its own;
    `distil: {name: th_kd, form: paper, alpha_th: 1}` gives it θ_s too. Where the embeddings differ in width, the
    teacher gets a linear adapter d_t → d_s before θ_s; it ships only where `distil` ships the teacher's neck (SimKD).
    Raises `UserError` where `first` ships another classifier than its student's own.
    """

    class Config(PluginConfig):
        """`first` and `distil` are `method` sections: how I0 and I2 train.

        `teacher: scratch` is the paper's I1, by the recipe's `teacher.train`, or by `train` where there is none, and
        never from pretrained weights. `tuned` is a cheaper one of our own: the recipe's trained teacher goes on under
        θ_s for `tune_epochs`, from `tune_lr` down a half cosine, after its own warm-up cut to a fifth of that.
        """

        first: schema.Plugin = schema.Plugin(name="plain")
        teacher: Literal["scratch", "tuned"] = "scratch"
        tune_epochs: int = Field(5, ge=1)
        tune_lr: float = Field(0.02, gt=0)
        distil: schema.Plugin = schema.Plugin.model_validate({"name": "kd"})

        @field_validator("first", "distil")
        @classmethod
        def _not_itself(cls, section: schema.Plugin) -> schema.Plugin:
            if section.name == "sh_kd":
                raise ValueError("sh_kd cannot be a step of itself")
            try:
                configured(section)
            except UserError as error:
                raise ValueError(str(error)) from error
            return section

    def __init__(self, config: Config, lesson: Lesson) -> None:
        super().__init__(config, lesson)
        self.first = make(config.first, replace(lesson, student=lesson.fresh_student()))
        if self.first.deployable().head is not self.first.student.head:
            raise UserError(
                f"SH-KD shares the classifier that its first student learned, and method.first, {config.first.name}, "
                "ships another.",
                "take plain, kd, or th_kd of form: code for method.first",
            )
        self.tailored = self._tailored()
        self.last = make(config.distil, replace(lesson, teacher=freeze(self._tailored())))  # refuses now, not after I1

    def stages(self) -> Iterator[Stage]:
        for stage in self.first.stages():
            yield replace(stage, name=f"head_{stage.name}", stream=stage.stream or stage.name)
        self.tailored.head = worn(self.first.deployable().head)
        schedule, minimises = self._schedule(), "cross-entropy, head frozen"
        yield Stage(
            "tailored_teacher", self.tailored, self.losses, schedule=schedule, stream="teacher", minimises=minimises
        )
        freeze(self.tailored)
        lesson = replace(self.lesson, teacher=self.tailored, student=self.lesson.fresh_student())
        self.last = make(self.config.distil, lesson)
        yield from self.last.stages()

    def losses(self, batch: Batch) -> Losses:
        """I1: cross-entropy of the teacher under the student's classifier."""
        return {"ce": self.task.lesson(self.tailored, batch.images, batch.labels)}

    def last_stage(self) -> Stage:
        return self.last.last_stage()

    def trained(self) -> Net:
        return self.last.trained()

    def deployable(self) -> Net:
        return self.last.deployable()

    def exhibits(self) -> dict[str, Net]:
        return {"tailored_teacher": self.tailored}

    def account(self) -> dict[str, Any]:
        return {**self.last.account(), "tailored_teacher": self.config.teacher}

    def _tailored(self) -> Net:
        """The teacher of I1 before its training: its own backbone, and a head of the student's shape."""
        lesson, head = self.lesson, self.student.head
        scratch = self.config.teacher == "scratch"
        net = lesson.untrained_teacher() if scratch else copy.deepcopy(self.teacher).requires_grad_(True)
        bridge = adapter(net.head.weight.shape[1], head.weight.shape[1])
        return Net(net.backbone, behind(net.neck, bridge), worn(head))

    def _schedule(self) -> schema.Train | None:
        spec = self.lesson.teacher_spec
        plan = (spec.train if spec else None) or self.lesson.plan
        if plan is None or self.config.teacher == "scratch":
            return plan
        epochs, warmup = self.config.tune_epochs, min(plan.warmup, self.config.tune_epochs / 5)
        changed = {"epochs": epochs, "lr": self.config.tune_lr, "schedule": "cosine", "warmup": warmup}
        return plan.model_copy(update=changed)
