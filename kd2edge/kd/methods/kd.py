"""KD: the student matches the teacher's softened class probabilities. Hinton et al., arXiv 1503.02531."""

from collections.abc import Iterator

from pydantic import Field

from kd2edge.kd.losses import kl
from kd2edge.kd.method import Batch, Losses, Method, Stage
from kd2edge.kd.net import Net, Shape
from kd2edge.kd.tasks import Task
from kd2edge.shelves import PluginConfig


class KD(Method):
    """L = γ·CE(p_s, y) + α·KL_τ(t‖s); with a margin head the margin is in CE only."""

    class Config(PluginConfig):
        """The literature's CIFAR setting is γ 0.1, α 0.9, τ 4."""

        gamma: float = Field(0.1, ge=0)
        alpha: float = Field(0.9, ge=0)
        tau: float = Field(4.0, gt=0)

    def __init__(self, config: Config, task: Task, shape: Shape, student: Net, teacher: Net | None) -> None:
        super().__init__(config, task, shape, student, teacher)
        self.config = config

    def stages(self) -> Iterator[Stage]:
        yield Stage("student", self.student, self.losses, frozen=(self.teacher,))

    def losses(self, batch: Batch) -> Losses:
        out, taught = self.student(batch.images), self.taught(batch)
        return {
            "ce": self.config.gamma * self.task.supervised(self.student, out, batch.labels),
            "kl": self.config.alpha * kl(out.logits, taught.logits, self.config.tau),
        }
