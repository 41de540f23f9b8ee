"""A classifier for a net that was published without one: the centres of its embeddings, class by class.

w_c is the sum, at unit length, of ẑ over the training images of class c and their mirror images, ẑ at unit length: the
head to which a cosine softmax without margin would pull on such embeddings (ProxylessKD, arXiv 2011.00265, inherits the
trained one; most published face nets come without).
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd2edge.data import Split, normalize
from kd2edge.errors import UserError
from kd2edge.kd import devices, ranks, store
from kd2edge.kd.heads import Cosine
from kd2edge.kd.net import Net
from kd2edge.progress import Progress
from kd2edge.schema import Preprocessing

BATCH = 64
Device = Literal["auto", "cpu", "cuda"]


def rebuild(
    teacher: Net,
    data: Split,
    how: Preprocessing,
    shared: store.Store | None,
    progress: Progress,
    device: Device = "auto",
) -> None:
    """Set a net's cosine head to the class centres of `data`; kept in `shared` for other runs with both.

    Raises `UserError` for a linear head, for a `device` that is not there, and where the embeddings of a class cancel
    out or are not finite.
    """
    if not isinstance(teacher.head, Cosine):
        raise UserError(
            "Class centres make a cosine classifier, and teacher.head is a linear one.",
            "set teacher.head.name to cosine, arcface or cosface",
        )
    place = devices.find(device)
    if shared is None:
        teacher.head.weight = torch.nn.Parameter(_centres(teacher, data, how, progress, place))
        return
    key = store.digest("class centres", store.code(), teacher.backbone, teacher.neck, data, how.model_dump(mode="json"))
    with shared.claim(key, lambda: progress.say("another run computes the class centres; waiting")):
        if not shared.weights(key).exists():
            teacher.head.weight = torch.nn.Parameter(_centres(teacher, data, how, progress, place))
            shared.put(key, teacher.head, [])
        else:
            shared.load(key, teacher.head)


@torch.no_grad()
def _centres(teacher: Net, data: Split, how: Preprocessing, progress: Progress, device: torch.device) -> Tensor:
    """float32 [classes, d], each row of unit length."""
    sums, together = torch.zeros_like(teacher.head.weight), ranks.join()
    progress.start("teacher: class centres", len(data))
    with devices.placed(device, teacher.eval()):
        for index, images in _batches(data, how, together):
            straight, mirrored = (teacher(side.to(device)).embedding for side in (images, images.flip(3)))
            embeddings = F.normalize(straight) + F.normalize(mirrored)
            sums.index_add_(0, torch.from_numpy(data.labels[index]), embeddings.cpu())
            progress.advance(len(index) * together.count)
    sums = together.mean(sums)  # whose length does not matter
    norms = sums.norm(dim=1)
    faulty = torch.nonzero(~(norms > 1e-6)).flatten().tolist()
    if faulty:
        raise UserError(
            f"Of {len(norms):,} classes {len(faulty):,} have no centre, as {data.classes[faulty[0]]}: "
            "it has no images, or its embeddings cancel out or are not finite.",
            "look at the teacher's weights and preprocessing",
        )
    centres: Tensor = sums / norms[:, None]
    return centres


def _batches(data: Split, how: Preprocessing, together: ranks.Ranks) -> Iterator[tuple[np.ndarray, Tensor]]:
    """This rank's batches: position and normalised images."""
    for start in range(BATCH * together.number, len(data), BATCH * together.count):
        index = np.arange(start, min(start + BATCH, len(data)))
        images = torch.from_numpy(normalize(data.read(index), how))
        yield index, images.contiguous(memory_format=torch.channels_last)
