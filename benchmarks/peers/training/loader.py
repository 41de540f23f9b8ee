"""The data loader of the papers' codes: PIL images, torchvision's transforms one image at a time, worker processes."""

import os
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.training.job import Job
from benchmarks.peers.training.subjects import STAGE, SUBJECTS, Subject
from kd2edge.edge.leaving import PARENT, leave_with_parent
from kd2edge.errors import UserError
from kd2edge.kd.foreign import torchvision_models
from kd2edge.schema import Preprocessing

Transform = Callable[[Image.Image], Any]
Sample = tuple[Tensor, int]


class Images(Dataset[Sample]):
    """As torchvision's CIFAR10: an array of uint8, an image of PIL's made of each entry, transforms on that."""

    def __init__(self, job: Job, transform: Transform) -> None:
        self.images, self.labels = np.load(job.images), np.load(job.labels).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loader(job: Job, epoch: int) -> tuple["DataLoader[Any]", dict[str, Any]]:
    """The batches of one epoch, in the order in which kd2edge shows them, and what they are made by."""
    subject = SUBJECTS[job.subject]
    transform, made_by = transforms(subject, job.augment)
    torch.manual_seed(job.seed + epoch)
    loaded: DataLoader[Any] = DataLoader(
        Images(job, transform),
        batch_size=subject.train().batch,
        sampler=order(job, epoch).tolist(),
        num_workers=job.workers,
        drop_last=True,
        pin_memory=job.device == "cuda",
        worker_init_fn=_leave_with_us,
    )
    return loaded, {"loader": f"torch's DataLoader, {job.workers} workers, {made_by}"}


def _leave_with_us(worker: int) -> None:
    """Die with the contender, even while stopped."""
    os.environ.pop(PARENT, None)
    leave_with_parent()


def order(job: Job, epoch: int) -> npt.NDArray[np.int64]:
    """The order of an epoch's images: that of `kd2edge/kd/train.py`, drawn from seed, stage and epoch."""
    count = len(np.load(job.labels, mmap_mode="r"))
    return np.random.default_rng([job.seed, zlib.crc32(STAGE.encode()), epoch]).permutation(count)


def transforms(subject: Subject, augment: bool = True, normalised: bool = True) -> tuple[Transform, str]:
    """The papers' transforms from torchvision, or the same of PIL where that does not import; and which.

    Not `normalised`, they end in an image of PIL's.
    """
    how, plan = subject.preprocessing(), subject.train().augment
    padding, flip = (plan.crop_padding, plan.flip) if augment else (0, False)
    try:
        torchvision_models("The reference loop")  # declares what a CPU build of torch lacks
        from torchvision import transforms as tv
    except UserError:
        return _of_pil(how, padding, flip, normalised), "transforms on PIL images"
    steps = [tv.RandomCrop(how.size[0], padding=padding)] if padding else []
    steps += [tv.RandomHorizontalFlip()] if flip else []
    steps += [tv.ToTensor(), tv.Normalize(how.mean, how.std)] if normalised else []
    return tv.Compose(steps), "torchvision's transforms"


def _of_pil(how: Preprocessing, padding: int, flip: bool, normalised: bool) -> Transform:
    means, deviations = (torch.tensor(given)[:, None, None] for given in (how.mean, how.std))
    height, width = how.size

    def transform(image: Image.Image) -> Any:
        if padding:
            left, top = random.randint(0, 2 * padding), random.randint(0, 2 * padding)
            image = ImageOps.expand(image, padding).crop((left, top, left + width, top + height))
        if flip and random.random() < 0.5:
            image = ImageOps.mirror(image)
        if not normalised:
            return image
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub(means).div(deviations)

    return transform
