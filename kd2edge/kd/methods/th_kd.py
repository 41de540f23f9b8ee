"""TH-KD: the frozen teacher classifier as a second head on the student's embedding. arXiv 2201.06945, section 3.1.

This is the released-code form: the teacher head sees a KL term only, and is dropped after training.
"""

from collections.abc import Iterator

from pydantic import Field
from torch import nn

from kd2edge.kd.losses import kl
from kd2edge.kd.method import Batch, Losses, Method, Stage
from kd2edge.kd.net import Net, Shape
from kd2edge.kd.tasks import Task
from kd2edge.shelves import PluginConfig


class THKD(Method):
    """L = γ·CE(p_s, y) + α·KL_τ(t‖s) + β·KL_τ(t‖s^TH), where s^TH = g_t(z_s) through the frozen teacher head g_t.

    Where the embeddings differ in width, a linear adapter d_s → d_t stands before g_t, in training only.
    """

    class Config(PluginConfig):
        """Defaults are the authors' published setting for resnet32x4 → resnet8x4."""

        gamma: float = Field(1.0, ge=0)
        alpha: float = Field(1.5, ge=0)
        beta: float = Field(0.02, ge=0)
        tau: float = Field(4.0, gt=0)

    def __init__(self, config: Config, task: Task, shape: Shape, student: Net, teacher: Net | None) -> None:
        super().__init__(config, task, shape, student, teacher)
        self.config = config
        width, wanted = student.head.weight.shape[1], self.teacher.head.weight.shape[1]
        self.adapter: nn.Module = nn.Identity() if width == wanted else nn.Linear(width, wanted)

    def stages(self) -> Iterator[Stage]:
        learner = nn.ModuleDict({"student": self.student, "adapter": self.adapter})
        yield Stage("student", learner, self.losses, frozen=(self.teacher,))

    def losses(self, batch: Batch) -> Losses:
        out, taught = self.student(batch.images), self.taught(batch)
        through = self.teacher.head(self.adapter(out.embedding))
        return {
            "ce": self.config.gamma * self.task.supervised(self.student, out, batch.labels),
            "kl": self.config.alpha * kl(out.logits, taught.logits, self.config.tau),
            "kl_th": self.config.beta * kl(through, taught.logits, self.config.tau),
        }
