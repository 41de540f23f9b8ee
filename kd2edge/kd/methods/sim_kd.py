"""SimKD: match the teacher's last feature map through a projector and reuse its classifier. arXiv 2203.14001."""

from collections.abc import Iterator

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd2edge.kd.method import Batch, Losses, Method, Stage
from kd2edge.kd.net import Net, Shape, fmap_shape
from kd2edge.kd.tasks import Task
from kd2edge.shelves import PluginConfig


class SimKD(Method):
    """L = MSE(P(F_s), F_t), the mean over all elements (section 3.2). No labels are used.

    What ships is trunk → projector P → the teacher's neck and head, so the projector's cost ships too.
    """

    class Config(PluginConfig):
        """`factor` r: the projector's hidden width is C_t / r. `relu` ends it, right after a ReLU net."""

        factor: int = Field(2, ge=1)
        relu: bool = True

    def __init__(self, config: Config, task: Task, shape: Shape, student: Net, teacher: Net | None) -> None:
        super().__init__(config, task, shape, student, teacher)
        channels, height, width = fmap_shape(student, shape)
        wanted, *self.size = fmap_shape(self.teacher, shape)
        shrink = (self.size[0], self.size[1]) if height > self.size[0] or width > self.size[1] else None
        self.trunk = ProjectedTrunk(student.backbone, projector(channels, wanted, config), shrink)

    def stages(self) -> Iterator[Stage]:
        yield Stage("student", self.trunk, self.losses, frozen=(self.teacher,))

    def deployable(self) -> Net:
        return Net(self.trunk, self.teacher.neck, self.teacher.head)

    def losses(self, batch: Batch) -> Losses:
        projected, target = self.trunk(batch.images), self.taught(batch).fmap
        if target.shape[2:] != projected.shape[2:]:
            target = F.adaptive_avg_pool2d(target, projected.shape[2:])
        return {"mse": F.mse_loss(projected.float(), target.float())}


class ProjectedTrunk(nn.Module):
    """The student's backbone, pooled to the teacher's size where it is larger, and the projector behind it."""

    def __init__(self, backbone: nn.Module, project: nn.Module, shrink: tuple[int, int] | None) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, project
        self.pool: nn.Module = nn.Identity() if shrink is None else nn.AdaptiveAvgPool2d(shrink)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        out: Tensor = self.projector(self.pool(features[0] if isinstance(features, tuple) else features))
        return out


def projector(channels: int, wanted: int, config: SimKD.Config) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions, each with BN and ReLU, hidden width `wanted` / r (section 3.2 and its figure)."""
    hidden = max(1, wanted // config.factor)
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((channels, hidden, 1), (hidden, hidden, 3), (hidden, wanted, 1)):
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*(layers if config.relu else layers[:-1]))
