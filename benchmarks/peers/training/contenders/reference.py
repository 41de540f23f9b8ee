"""The loop of the papers' codes, written from their description: fp32, NCHW, a data loader, the teacher in the loop.

Images are PIL's, augmented one by one in worker processes (padded crop, flip, to tensor, normalise), batches of 64, the
teacher in evaluation mode and without gradients, plain SGD, and the loss read as a number at every step, as
RepDistiller's, HeadSharingKD's, SimKD's and arcface_torch's loops do. Formulas: arXiv 1503.02531 section 2 (KD),
2201.06945 (TH-KD, as released), 2203.14001 eq. 3 (SimKD), 1801.07698 eq. 3 (ArcFace).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.training.job import Blocks, Job
from benchmarks.peers.training.loader import loader
from benchmarks.peers.training.subjects import SUBJECTS, taught
from kd2edge.kd.method import Method
from kd2edge.kd.methods.sim_kd import SimKD

Loss = Callable[[Tensor, Tensor], Tensor]


def train(job: Job, blocks: Blocks) -> None:
    """Train for ever, or until no more steps are asked for."""
    plan, method = SUBJECTS[job.subject].train(), taught(job)
    learner = (method.shipped.backbone if isinstance(method, SimKD) else method.student).to(job.device).train()
    plain(learner)
    if SUBJECTS[job.subject].teacher is not None:
        method.teacher.to(job.device).eval()
    loss_of = LOSSES[job.subject.removesuffix("_wide")](method)
    optimizer = torch.optim.SGD(
        [parameter for parameter in learner.parameters() if parameter.requires_grad],
        lr=plan.lr,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )
    epoch = 0
    while True:
        images_loaded, blocks.notes = loader(job, epoch)
        for images, labels in images_loaded:
            blocks.begin()
            images, labels = images.to(job.device), labels.to(job.device)
            loss = loss_of(images, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            if plan.clip is not None:
                nn.utils.clip_grad_norm_(learner.parameters(), plan.clip)
            optimizer.step()
            blocks.seen(loss.item())
        epoch += 1


def plain(learner: nn.Module) -> None:
    """torch's own PReLU in the place of kd2edge's, which computes the same and is quicker to differentiate."""
    for module in learner.modules():
        if isinstance(module, nn.PReLU):
            module.__class__ = nn.PReLU


def softened(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Hinton's term: KL between the softened distributions, times τ², a mean over the batch."""
    divergence = F.kl_div(F.log_softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1), reduction="sum")
    return divergence * tau**2 / len(student)


def kd(method: Method) -> Loss:
    """γ 0.1, α 0.9, τ 4."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = method.teacher(images).logits
        student = method.student(images).logits
        return 0.1 * F.cross_entropy(student, labels) + 0.9 * softened(student, teacher, 4.0)

    return loss


def th_kd(method: Method) -> Loss:
    """CE + 1.5 KL + 0.02 KL of the teacher's head on the student's embedding."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = method.teacher(images).logits
        out = method.student(images)
        through = method.teacher.head(out.embedding)
        own = F.cross_entropy(out.logits, labels) + 1.5 * softened(out.logits, teacher, 4.0)
        return own + 0.02 * softened(through, teacher, 4.0)

    return loss


def sim_kd(method: Method) -> Loss:
    """The mean square of what the projector is off the teacher's last feature map."""
    assert isinstance(method, SimKD)
    trunk = method.shipped.backbone

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = method.teacher(images).fmap
        return F.mse_loss(trunk(images), wanted)

    return loss


def arcface(method: Method) -> Loss:
    """Scale 32, margin 0.3; cos θ cos m - sin θ sin m, and beyond π - m the straight line of the authors' code."""
    scale, margin = 32.0, 0.3

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        embedding = method.student.neck(method.student.backbone(images))
        cosine = F.linear(F.normalize(embedding), F.normalize(method.student.head.weight)).clamp(-1, 1)
        sine = torch.sqrt((1 - cosine**2).clamp(min=1e-7))
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        shifted = torch.where(cosine > math.cos(math.pi - margin), shifted, cosine - margin * math.sin(margin))
        own = F.one_hot(labels, cosine.shape[1]).bool()
        return F.cross_entropy(scale * torch.where(own, shifted, cosine), labels)

    return loss


LOSSES = {"kd": kd, "th_kd": th_kd, "sim_kd": sim_kd, "arcface": arcface}
