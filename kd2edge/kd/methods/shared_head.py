"""One classifier for student and teacher that training makes: learned from both embeddings, or the teacher's centres.

`mode: ema` is AdaDistill (arXiv 2407.01332), as its released code computes it. `mode: joint` is a frozen teacher's
form of sharing one trainable head; both are options beside the teacher's own head (TH-KD) and the student's (SH-KD).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import sharded
from kd2edge.kd.companions import Companions, Company
from kd2edge.kd.heads import Cosine
from kd2edge.kd.losses import kl
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage
from kd2edge.kd.net import adapter
from kd2edge.kd.partial import sampled


class SharedHead(Method):
    """With z_s and z_t the embeddings and g the student's head, which ships:

    joint: L = γ·CE(g(z_s), y) + β·CE(g(A z_t), y) + α·KL_τ(t‖g(z_s)); g learns from both CEs, A maps widths d_t → d_s.
    ema:   L = γ·CE(g(z_s), y) + α·KL_τ(t‖g(z_s)); g's rows are centres that no gradient moves. Before the loss, with
           ẑ = z / ‖z‖ and for each image of class y:  w_y ← a·w_y + (1 − a)·ẑ_t,
           a = clamp(cos(z_s, z_t)·clamp(cos(w_y, z_t), 1e-6, 1), 1e-6, 1).

    So a centre is an image's own embedding at first, and one of many images as the student nears its teacher. Where a
    batch has several images of a class, their updates are averaged. A margin is in CE only.
    """

    class Config(Companions):
        """`beta` is joint's; α = 0 leaves the KL out, as AdaDistill does."""

        mode: Literal["joint", "ema"] = "joint"
        gamma: float = Field(1.0, ge=0)
        beta: float = Field(1.0, ge=0)
        alpha: float = Field(0.0, ge=0)
        tau: float = Field(4.0, gt=0)

        @model_validator(mode="after")
        def _beta_belongs_to_joint(self) -> "SharedHead.Config":
            if self.mode == "ema" and "beta" in self.model_fields_set:
                raise ValueError("beta belongs to mode: joint, and this is mode: ema")
            return self

    def __init__(self, config: Config, lesson: Lesson) -> None:
        super().__init__(config, lesson)
        own, theirs = self.student.head.weight.shape[1], self.teacher.head.weight.shape[1]
        self.adapter = adapter(theirs, own)
        self.company = Company(config, self.student, self.teacher)
        if config.mode == "ema":
            if not isinstance(self.student.head, Cosine) or own != theirs:
                raise UserError(
                    "mode: ema makes the student's class centres of the teacher's embeddings, and these do not fit it.",
                    "give both nets the same `embedding`, and the student a cosine, arcface or cosface head",
                )
            self.student.head.requires_grad_(False)

    def stages(self) -> Iterator[Stage]:
        learner = nn.ModuleDict({"student": self.student, "adapter": self.adapter, "company": self.company})
        yield Stage("student", learner, self.losses, (self.teacher,), taught_by=self.teacher, minimises=self.words())

    def losses(self, batch: Batch) -> Losses:
        with sampled(batch.labels, self.student.head, self.teacher.head) as columns:
            return self._terms(batch, columns)

    def _terms(self, batch: Batch, columns: Tensor) -> Losses:
        """The terms; `columns` [N] are the labels as columns of the logits."""
        out, answers, config, head = self.student(batch.images), self.answers(batch), self.config, self.student.head
        terms: Losses = {}
        if config.mode == "ema":
            self._move_centres(out.embedding, answers.embedding, batch.labels)
            out = replace(out, logits=head(out.embedding))
        else:
            theirs = head(self.adapter(answers.embedding))
            terms["ce_teacher"] = config.beta * F.cross_entropy(head.with_margin(theirs, columns).float(), columns)
        terms["ce"] = config.gamma * self.task.supervised(self.student, out, columns)
        if config.alpha:
            terms["kl"] = config.alpha * kl(out.logits, answers.logits, config.tau)
        return {**terms, **self.company(out, answers, batch.labels)}

    @torch.no_grad()
    def _move_centres(self, student: Tensor, teacher: Tensor, labels: Tensor) -> None:
        """One step of the moving average, for the batch's classes; embeddings [N, d]. All ranks make the same step."""
        if dist.is_initialized():
            student, teacher, labels = (sharded.gather(part) for part in (student, teacher, labels))
        classes, place = torch.unique(labels, return_inverse=True)
        weight = self.student.head.weight
        student, teacher, centres = student.float(), F.normalize(teacher.float()), weight[labels]
        known = F.cosine_similarity(centres, teacher).clamp(1e-6, 1)
        keep = (F.cosine_similarity(student, teacher) * known).clamp(1e-6, 1)[:, None]
        moved = keep * centres + (1 - keep) * teacher
        sums = moved.new_zeros(len(classes), moved.shape[1]).index_add_(0, place, moved)
        weight[classes] = sums / place.bincount()[:, None]
