"""KD: the student matches the teacher's softened class probabilities. Hinton et al., arXiv 1503.02531."""

from collections.abc import Iterator

from pydantic import Field
from torch import nn

from kd2edge.kd.companions import Companions, Company
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage
from kd2edge.kd.partial import sampled


class KD(Method):
    """L = γ·CE(p_s, y) + α·KL_τ(t‖s) + companions; with a margin head the margin is in CE only."""

    shards = True

    class Config(Companions):
        """The literature's CIFAR setting is γ 0.1, α 0.9, τ 4."""

        gamma: float = Field(0.1, ge=0)
        alpha: float = Field(0.9, ge=0)
        tau: float = Field(4.0, gt=0)

    def __init__(self, config: Config, lesson: Lesson) -> None:
        super().__init__(config, lesson)
        self.company = Company(config, self.student, self.teacher)

    def stages(self) -> Iterator[Stage]:
        learner = nn.ModuleDict({"student": self.student, "company": self.company})
        frozen = (self.teacher,)
        yield Stage("student", learner, self.losses, frozen, taught_by=self.teacher, minimises=self.words())

    def losses(self, batch: Batch) -> Losses:
        with sampled(batch.labels, self.student.head, self.teacher.head) as columns:
            out, answers = self.student(batch.images), self.answers(batch)
            return {
                "ce": self.config.gamma * self.task.supervised(self.student, out, columns),
                "kl": self.config.alpha * self.student.head.kl(out.logits, answers.logits, self.config.tau),
                **self.company(out, answers, batch.labels),
            }
