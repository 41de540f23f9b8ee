"""Augmentation as tensor operations on a batch of uint8 images, each drawn from one generator."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd2edge.schema import Affine, Augment, Preprocessing


def prepare(images: Tensor, plan: Augment | None, how: Preprocessing, generator: torch.Generator) -> Tensor:
    """uint8 [N, H, W, C] → augmented, normalised float32 [N, C, H, W]; `plan=None` only normalises.

    What a move uncovers is black, as in the literature's padded crop. Chance is drawn on the processor, from
    `generator`, whatever device the images are on.
    """
    x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    if plan is not None:
        if plan.affine is not None:
            x = _affine(x, plan.affine, generator)
        if plan.crop_padding:
            x = _crop(x, plan.crop_padding, generator)
        if plan.flip:
            mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    mean = torch.tensor(how.mean, dtype=torch.float32, device=x.device)[:, None, None]
    std = torch.tensor(how.std, dtype=torch.float32, device=x.device)[:, None, None]
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def _affine(x: Tensor, plan: Affine, generator: torch.Generator) -> Tensor:
    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    turn, shear = uniform(math.radians(plan.degrees)), torch.tan(uniform(math.radians(plan.shear)))
    scale_x, scale_y = 1 + uniform(plan.scale), 1 + uniform(plan.scale)
    cos, sin = torch.cos(turn), torch.sin(turn)
    shift = [2 * uniform(plan.translate), 2 * uniform(plan.translate)]
    rows = [
        cos / scale_x,
        (cos * shear - sin) / scale_x,
        shift[0],
        sin / scale_y,
        (sin * shear + cos) / scale_y,
        shift[1],
    ]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3).to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _crop(x: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    padded = F.pad(x, (padding,) * 4)
    top = torch.randint(0, 2 * padding + 1, (len(x), 1, 1), generator=generator)
    left = torch.randint(0, 2 * padding + 1, (len(x), 1, 1), generator=generator)
    rows = (top + torch.arange(height)[None, :, None]).to(x.device)
    columns = (left + torch.arange(width)[None, None, :]).to(x.device)
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[samples, :, rows, columns].permute(0, 3, 1, 2)
