"""torchdistill's own box, loss and step on the same nets and the same data loader, as its example scripts drive it.

What its `examples/torchvision/image_classification.py` does for each batch, and nothing of what that logs but the loss.
"""

import importlib
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.training.job import Blocks, Job
from benchmarks.peers.training.loader import loader
from benchmarks.peers.training.subjects import SUBJECTS, taught
from kd2edge.kd.net import Net


class Logits(nn.Module):
    """A net that gives the one tensor that torchdistill's loss reads."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images).logits
        return logits


def train(job: Job, blocks: Blocks) -> None:
    """Train for ever, or until no more steps are asked for. Raises ImportError where torchdistill is missing."""
    batches, notes = loader(job, 0)  # declares first what torchvision wants of a CPU build of torch
    box_of = importlib.import_module("torchdistill.core.distillation").get_distillation_box
    plan, method = SUBJECTS[job.subject].train(), taught(job)
    blocks.notes = {**notes, "torchdistill": metadata.version("torchdistill")}
    device = torch.device(job.device)
    box: Any = box_of(
        Logits(method.teacher), Logits(method.student), {}, _config(plan.lr, plan.weight_decay), device, None, False, 1
    )
    epoch = 0
    while True:
        box.pre_epoch_process(epoch=epoch)
        for images, labels in batches:
            blocks.begin()
            images, labels = images.to(device), labels.to(device)
            loss = box.forward_process(images, labels, None)
            box.post_forward_process(loss)
            blocks.seen(loss.item())
        epoch += 1
        batches, _ = loader(job, epoch)


def _config(lr: float, weight_decay: float) -> dict[str, Any]:
    """KD as in torchdistill's sample configurations, with the papers' weights: 0.1 CE + 0.9 KL at temperature 4."""
    paths = {"student_module_path": ".", "student_module_io": "output"}
    paths |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    return {
        "num_epochs": 240,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": lr, "momentum": 0.9, "weight_decay": weight_decay}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {**paths, "temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"},
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }
