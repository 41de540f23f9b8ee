"""SimKD: match the teacher's last feature map through a projector and reuse its classifier. arXiv 2203.14001."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd2edge.errors import UserError, first_line
from kd2edge.kd.method import Batch, Losses, Method, Stage
from kd2edge.kd.net import Net, Shape, fmap_shape
from kd2edge.kd.tasks import Task
from kd2edge.shelves import PluginConfig


class SimKD(Method):
    """L = MSE(P(F_s), F_t), the mean over all elements (section 3.2). No labels are used.

    What ships is trunk → projector P → the teacher's neck and head, so the projector's cost ships too.
    Raises `UserError`, before anything is trained, when these do not fit together.
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
        self.neck = neck_behind_map(self.teacher, shape)
        _require_it_runs(self.deployable(), shape)
        self.trunk.train()

    def stages(self) -> Iterator[Stage]:
        yield Stage("student", self.trunk, self.losses, frozen=(self.teacher,))

    def deployable(self) -> Net:
        return Net(self.trunk, self.neck, self.teacher.head)

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


@torch.no_grad()
def neck_behind_map(teacher: Net, shape: Shape) -> nn.Module:
    """What leads from the frozen teacher's last feature map [N, C, H, W] to its embedding [N, d].

    A backbone that pools by its own means left the pooling out of the neck; here it is put back before it. That is
    right only where average pooling alone follows the map, which is tried on noise; raises `UserError` where more does.
    """
    if not getattr(teacher.backbone, "pools", False):
        return teacher.neck
    noise = torch.randn(2, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
    fmap, pooled = teacher.backbone(noise)
    mean = fmap.mean((2, 3))
    if mean.shape != pooled.shape or (mean - pooled).abs().max() > 1e-3 * pooled.abs().max():
        raise UserError(
            "SimKD needs a teacher with nothing but average pooling between its last feature map and its classifier; "
            f"this one has more at {shape.size[0]}×{shape.size[1]} pixels.",
            "raise data.size where that map has a single pixel, or choose another teacher.model or method",
        )
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), teacher.neck)


@torch.no_grad()
def _require_it_runs(shipped: Net, shape: Shape) -> None:
    try:
        shipped.eval()(torch.zeros(1, shape.channels, *shape.size))
    except RuntimeError as error:
        raise UserError(
            f"The teacher's neck and head do not fit behind the student's feature map: {first_line(error)}.",
            "choose a student with a smaller stride, or a teacher with neck: gap",
        ) from error
