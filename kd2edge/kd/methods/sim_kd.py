"""SimKD: match the teacher's last feature map through a projector and reuse its classifier. arXiv 2203.14001."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator

from kd2edge.errors import UserError, first_line
from kd2edge.kd.losses import kl
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage
from kd2edge.kd.net import Net, Shape, fmap_shape
from kd2edge.kd.projector import ProjectedTrunk, Projector, neck_behind_map, shipped_parameters
from kd2edge.shelves import PluginConfig

FACTORS = (1, 2, 4, 8, 16, 32)  # what a budget chooses from, the largest projector first
HARDLY_SMALLER = 0.6  # a share of the teacher from which a user should know that little was compressed


class SimKD(Method):
    """L = β·MSE(P(F_s), F_t), the mean over all elements, + γ·CE + α·KL_τ(t‖s) where these are not 0.

    F_s and F_t are the last feature maps, the larger one average-pooled to the size of the smaller. What ships is
    trunk → projector P → the teacher's frozen neck and head, which also give the logits of CE and KL; so the
    projector's cost ships too. The paper uses neither labels nor KL.
    Raises `UserError`, before anything is trained, when the nets do not fit together, or no projector is within the
    budget.
    """

    class Config(PluginConfig):
        """`factor` r: the projector's hidden width is C_t / r; 2, as in the paper, unless a budget chooses it.

        A budget takes the smallest r of 1, 2, 4, 8, 16, 32 with which the net that ships has at most `max_share` of
        the teacher's parameters, or takes at most `max_latency` times as long as the plain student; or both. `relu`
        ends the projector, right after a ReLU net; `depthwise` makes its 3x3 convolution depthwise. The mean over all
        elements makes small gradients: over few epochs `beta` has to be far above the authors' 1, or the rate.
        """

        max_share: float | None = Field(None, gt=0)
        max_latency: float | None = Field(None, gt=0)
        factor: int | None = Field(None, ge=1, validate_default=True)
        relu: bool = True
        depthwise: bool = False
        beta: float = Field(1.0, gt=0)
        gamma: float = Field(0.0, ge=0)
        alpha: float = Field(0.0, ge=0)
        tau: float = Field(4.0, gt=0)

        @field_validator("factor")
        @classmethod
        def _given_or_chosen(cls, factor: int | None, info: ValidationInfo) -> int | None:
            budgets = [name for name in ("max_share", "max_latency") if info.data.get(name) is not None]
            if factor is not None and budgets:
                raise ValueError(f"either a factor or a budget that chooses one, and {' and '.join(budgets)} is set")
            return factor if factor is not None or budgets else 2

    reads_map = True

    def __init__(self, config: Config, lesson: Lesson) -> None:
        super().__init__(config, lesson)
        self.neck = neck_behind_map(self.teacher, lesson.shape)
        self.given, *given_size = fmap_shape(self.student, lesson.shape)
        self.wanted, *wanted_size = fmap_shape(self.teacher, lesson.shape)
        self.size = (min(given_size[0], wanted_size[0]), min(given_size[1], wanted_size[1]))
        self.shrink = None if list(self.size) == given_size else self.size
        self.factor: int = config.factor or self._factor_within_budget()
        self.trunk = self._trunk(self.factor)
        self.shipped = self._shipping(self.trunk)
        _require_it_runs(self.shipped, lesson.shape)
        self.trunk.train()

    def stages(self) -> Iterator[Stage]:
        yield Stage("student", self.shipped.backbone, self.losses, frozen=(self.teacher,))

    def trained(self) -> Net:
        return self.shipped

    def deployable(self) -> Net:
        return self.shipped

    def losses(self, batch: Batch) -> Losses:
        out, taught = self.shipped(batch.images), self.taught(batch)
        projected = out.fmap
        target = taught.fmap
        if target.shape[2:] != projected.shape[2:]:
            target = F.adaptive_avg_pool2d(target, projected.shape[2:])
        terms = {"mse": self.config.beta * F.mse_loss(projected.float(), target.float())}
        if self.config.gamma or self.config.alpha:
            if self.config.gamma:
                terms["ce"] = self.config.gamma * self.task.supervised(self.teacher, out, batch.labels)
            if self.config.alpha:
                terms["kl"] = self.config.alpha * kl(out.logits, taught.logits, self.config.tau)
        return terms

    def account(self) -> dict[str, Any]:
        """What ships, beside the teacher and the plain student: parameters, and MACs and ms of one image.

        A `warning` is there when more than 60 % of the teacher's parameters ship.
        """
        shipped, projector = self.deployable(), self.trunk.projector
        parameters, own = self._parameters(shipped), sum(p.numel() for p in projector.parameters())
        share = parameters / self._teacher_parameters
        account: dict[str, Any] = {
            "projector": {"factor": self.factor, "parameters": own, "macs": projector.macs(self.size)},
            "parameters": parameters,
            "teacher_parameters": self._teacher_parameters,
            "share_of_teacher": share,
        }
        if self.lesson.latency is not None:
            account["latency_ms"] = {"deployed": self._latency(shipped), "student": self._student_latency}
        if share > HARDLY_SMALLER:
            cure = "lower the budget in `method`" if self.config.factor is None else "raise method.factor"
            account["warning"] = (
                f"what ships has {share:.0%} of the teacher's parameters, {own / parameters:.0%} of them in the "
                f"projector of factor {self.factor}: {cure}, or choose a smaller student."
            )
        return account

    def _factor_within_budget(self) -> int:
        """The first of `FACTORS` within the budgets. What is drawn at random later is as if it had been given."""
        reached: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            for factor in FACTORS:
                reached = self._reached(self._shipping(self._trunk(factor)))
                if all(value <= getattr(self.config, budget) for budget, value in reached.items()):
                    return factor
        listed = " and ".join(f"{budget} {value:.3g}" for budget, value in reached.items())
        raise UserError(
            f"No projector keeps within the budget: the smallest, of factor {FACTORS[-1]}, comes to {listed}.",
            "raise the budget in `method`, or choose a smaller student",
        )

    def _reached(self, shipped: Net) -> dict[str, float]:
        """What a net needs of each budget that is set."""
        _require_it_runs(shipped, self.shape)
        reached = {}
        if self.config.max_share is not None:
            reached["max_share"] = self._parameters(shipped) / self._teacher_parameters
        if self.config.max_latency is not None:
            reached["max_latency"] = self._latency(shipped) / self._student_latency
        return reached

    def _latency(self, net: Net) -> float:
        if self.lesson.latency is None:
            raise UserError("There is nothing here to measure latency with.", "set method.max_share or method.factor")
        return self.lesson.latency(net)

    @cached_property
    def _student_latency(self) -> float:
        return self._latency(self.student)

    @cached_property
    def _teacher_parameters(self) -> int:
        return self._parameters(self.teacher)

    def _parameters(self, net: Net) -> int:
        return shipped_parameters(net, self.task.output, self.shape)

    def _trunk(self, factor: int) -> ProjectedTrunk:
        projector = Projector(self.given, self.wanted, factor, self.config.relu, self.config.depthwise)
        return ProjectedTrunk(self.student.backbone, projector, self.shrink)

    def _shipping(self, trunk: ProjectedTrunk) -> Net:
        return Net(trunk, self.neck, self.teacher.head)


@torch.no_grad()
def _require_it_runs(shipped: Net, shape: Shape) -> None:
    try:
        shipped.eval()(torch.zeros(1, shape.channels, *shape.size))
    except RuntimeError as error:
        raise UserError(
            f"The teacher's neck and head do not fit behind the student's feature map: {first_line(error)}.",
            "choose a student with a smaller stride, or a teacher with neck: gap",
        ) from error
