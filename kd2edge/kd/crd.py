"""CRD: tell the teacher's embedding of the same image from those of other classes. Tian et al., arXiv 1910.10699.

In the softmax form (InfoNCE, arXiv 1807.03748 eq. 4), not the paper's h = e^(g/τ) / (e^(g/τ) + N/M) with N negatives
and M images. That one is made for a bank of all M images, and its authors' code scales e^(g/τ) by an estimate from the
first batch, which was found wanting (HobbitLong/CMC, issue 23). The softmax normalises over the negatives that are
there, however many: those of the batch, or of a queue of bounded length (MoCo, arXiv 1911.05722).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd2edge.shelves import PluginConfig


class CRD(nn.Module):
    """−log[e^(u_i·v_i/τ) / (e^(u_i·v_i/τ) + Σ_j e^(u_i·v_j/τ))], averaged over anchors i, summed over both directions.

    u and v are the L2-normalised linear projections of student and teacher embeddings: first the student's are the
    anchors and the teacher's the samples, then the other way round. Negatives j are images of other classes than the
    anchor's ("exact" in the authors' code): those of the batch, and those of a queue. An anchor without
    any contributes 0.

    The queue is made of buffers, so that a checkpoint holds it: 2·K·D float32 and K + 1 int64 values, for ever.
    """

    class Config(PluginConfig):
        """`weight` (the authors' β) is for whoever adds the loss to others; `queue` is K, the number of images kept.

        `temperature` is τ and `dimensions` D. With `negatives: batch` no queue is kept.
        """

        weight: float = Field(0.8, ge=0)
        dimensions: int = Field(128, ge=1)
        temperature: float = Field(0.07, gt=0)
        negatives: Literal["batch", "queue"] = "batch"
        queue: int = Field(4096, ge=1)

    student_queue: Tensor
    teacher_queue: Tensor
    queue_labels: Tensor
    enqueued: Tensor

    def __init__(self, config: Config, student: int, teacher: int) -> None:
        """`student` and `teacher` are the widths of the embeddings that will be given."""
        super().__init__()
        self.config = config
        self.project_student = nn.Linear(student, config.dimensions)
        self.project_teacher = nn.Linear(teacher, config.dimensions)
        self.capacity = config.queue if config.negatives == "queue" else 0
        self.register_buffer("student_queue", torch.zeros(self.capacity, config.dimensions))
        self.register_buffer("teacher_queue", torch.zeros(self.capacity, config.dimensions))
        self.register_buffer("queue_labels", torch.zeros(self.capacity, dtype=torch.int64))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss, a float32 scalar, unweighted, of embeddings [N, d_s] and [N, d_t] of any float dtype.

        Computed in float32 under autocast too. No gradient reaches `teacher`. In training mode the batch enters the
        queue, after it was compared with what came before it.
        """
        with torch.autocast(student.device.type, enabled=False):
            u = F.normalize(self.project_student(student.float()))
            v = F.normalize(self.project_teacher(teacher.detach().float()))
            kept = min(int(self.enqueued), self.capacity)
            owners = torch.cat([labels, self.queue_labels[:kept]])
            loss = self._contrast(u, torch.cat([v, self.teacher_queue[:kept]]), owners)
            loss = loss + self._contrast(v, torch.cat([u, self.student_queue[:kept]]), owners)
        if self.training and self.capacity:
            self._enqueue(u, v, labels)
        return loss

    def _contrast(self, anchors: Tensor, samples: Tensor, owners: Tensor) -> Tensor:
        """Cross-entropy of finding row i of `samples` [N + Q, D] for row i of `anchors` [N, D]."""
        count = len(anchors)
        same_class = owners[:count, None] == owners[None, :]
        itself = torch.eye(count, len(samples), dtype=torch.bool, device=anchors.device)
        scores = (anchors @ samples.T / self.config.temperature).masked_fill(same_class & ~itself, -torch.inf)
        return F.cross_entropy(scores, torch.arange(count, device=anchors.device))

    @torch.no_grad()
    def _enqueue(self, u: Tensor, v: Tensor, labels: Tensor) -> None:
        """Write the batch over the oldest entries of the ring; of a batch larger than it, the last K."""
        count = min(len(labels), self.capacity)
        self.enqueued += len(labels)
        places = (torch.arange(count, device=labels.device) + self.enqueued - count) % self.capacity
        self.student_queue[places] = u[-count:]
        self.teacher_queue[places] = v[-count:]
        self.queue_labels[places] = labels[-count:]
