"""TH-KD: the frozen teacher classifier as a second head on the student's embedding. arXiv 2201.06945.

Paper and released code differ, and both are here. `form: code` puts a KL term on the teacher head, in training only.
`form: paper` mixes both heads with α_TH in KD, CE and prediction; with α_TH = 1 the student wears the teacher's head.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kd2edge.kd.companions import Companions, Company
from kd2edge.kd.heads import MixedHead, start_from, worn
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage
from kd2edge.kd.net import Net, adapter, behind
from kd2edge.kd.partial import sampled


class THKD(Method):
    """With s^TH = g_t(z_s), the frozen teacher head g_t on the student's embedding z_s:

    code:  L = γ·CE(s, y) + α·KL_τ(t‖s) + β·KL_τ(t‖s^TH)
    paper: L = γ·[(1 − a)·CE(s, y) + a·CE(s^TH, y)] + α·[(1 − a)·KL_τ(t‖s) + a·KL_τ(t‖s^TH)],  a = α_TH,
           and the prediction is (1 − a)·softmax(s) + a·softmax(s^TH).

    Where the embeddings differ in width, a linear adapter d_s → d_t stands before g_t: in training only in the code's
    form, shipped with the paper's. A margin is in CE only.
    """

    shards = True

    class Config(Companions):
        """γ, α and β default to the authors' published setting for resnet32x4 → resnet8x4.

        `init_head` starts the student's own head from the teacher's.
        """

        form: Literal["code", "paper"] = "code"
        gamma: float = Field(1.0, ge=0)
        alpha: float = Field(1.5, ge=0)
        tau: float = Field(4.0, gt=0)
        beta: float = Field(0.02, ge=0)
        alpha_th: float = Field(1.0, gt=0, le=1)
        init_head: bool = False

        @model_validator(mode="after")
        def _weights_belong_to_their_form(self) -> "THKD.Config":
            foreign = {"code": "alpha_th", "paper": "beta"}[self.form]
            if foreign in self.model_fields_set:
                other = {"code": "paper", "paper": "code"}[self.form]
                raise ValueError(f"{foreign} belongs to form: {other}, and this is form: {self.form}")
            return self

    def __init__(self, config: Config, lesson: Lesson) -> None:
        super().__init__(config, lesson)
        own, theirs = self.student.head, self.teacher.head
        self.adapter = adapter(own.weight.shape[1], theirs.weight.shape[1])
        self.company = Company(config, self.student, self.teacher, self.adapter)
        if config.init_head:
            start_from(own, theirs)
        self.mix = config.alpha_th if config.form == "paper" else None
        if self.mix == 1:
            self.student.head.requires_grad_(False)  # the teacher's takes its place

    def stages(self) -> Iterator[Stage]:
        learner = nn.ModuleDict({"student": self.student, "adapter": self.adapter, "company": self.company})
        yield Stage(
            "student", learner, self.losses, frozen=(self.teacher,), taught_by=self.teacher, watch=self.head_drift
        )

    def losses(self, batch: Batch) -> Losses:
        with sampled(batch.labels, self.student.head, self.teacher.head) as columns:
            return self._terms(batch, columns)

    def _terms(self, batch: Batch, columns: Tensor) -> Losses:
        """The terms; `columns` [N] are the labels as columns of the logits."""
        out, answers, config, head = self.student(batch.images), self.answers(batch), self.config, self.teacher.head
        through = head(self.adapter(out.embedding))
        own, theirs = (1.0, config.beta) if self.mix is None else (1 - self.mix, self.mix)
        terms: Losses = {}
        if own:
            terms["ce"] = own * config.gamma * self.task.supervised(self.student, out, columns)
            terms["kl"] = own * config.alpha * head.kl(out.logits, answers.logits, config.tau)
        if self.mix is None:
            terms["kl_th"] = theirs * head.kl(through, answers.logits, config.tau)
        else:
            terms["ce_th"] = theirs * config.gamma * head.cross_entropy(through, columns)
            terms["kl_th"] = theirs * config.alpha * head.kl(through, answers.logits, config.tau)
        terms.update(self.company(out, answers, batch.labels))
        return terms

    def deployable(self) -> Net:
        if self.mix is None:
            return self.student
        if self.mix == 1:
            return Net(self.student.backbone, behind(self.student.neck, self.adapter), worn(self.teacher.head))
        head = MixedHead(self.student.head, self.adapter, worn(self.teacher.head), self.mix)
        return Net(self.student.backbone, self.student.neck, head)

    def account(self) -> dict[str, Any]:
        """What ships beside the student's own net: the adapter, and the teacher's head where both heads are mixed."""
        adapter = sum(p.numel() for p in self.adapter.parameters()) if self.mix is not None else 0
        second = self.mix is not None and self.mix < 1 and self.task.output == "logits"
        head = sum(p.numel() for p in self.teacher.head.parameters()) if second else 0
        extra = {"adapter_parameters": adapter if second or self.mix == 1 else 0, "second_head_parameters": head}
        return {name: count for name, count in extra.items() if count}

    @torch.no_grad()
    def head_drift(self) -> dict[str, float]:
        """How far the student's own head is from the teacher's: cosines of the classes' weights, mean and least."""
        own, theirs = self.student.head, self.teacher.head
        if self.mix == 1 or own.weight.shape != theirs.weight.shape or own.shard is not None:
            return {}
        cosines = F.cosine_similarity(own.weight.float(), theirs.weight.float())
        drift = {"head_cosine_mean": cosines.mean().item(), "head_cosine_min": cosines.min().item()}
        if own.bias is not None and theirs.bias is not None:
            drift["head_bias_l2"] = (own.bias - theirs.bias).norm().item()
        return drift
