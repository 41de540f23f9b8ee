"""Augmentation and normalisation as tensor operations, on the device, of a batch of uint8 images.

What happens to which image is drawn once for the whole batch of a step; each process, and each part of an accumulated
step, applies what fell to its own images. So a batch looks the same however it is split.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kd2edge.schema import Affine, Augment, Preprocessing, ResizedCrop

TRIES = 10  # to find a crop within the image, before the whole of it is taken


@dataclass(frozen=True)
class Chances:
    """What was drawn for N images, on the processor; None where a recipe does not ask for it.

    `maps` float32 [N, 2, 3] leads from an output's place to the input's, `corners` int64 [2, N] are the top and left of
    a crop within the padded image, `mirrored` int64 [M] the positions of those to mirror.
    """

    maps: Tensor | None
    corners: Tensor | None
    mirrored: Tensor | None


def draw(plan: Augment, count: int, generator: torch.Generator, index: Tensor | None = None) -> Chances:
    """The chances of `count` images, or those of the ones at int64 [n] positions among so many."""
    here = slice(None) if index is None else index
    maps = None if plan.affine is None else _maps(plan.affine, count, generator)[here]
    if plan.resized_crop is not None:
        cuts = _cuts(plan.resized_crop, count, generator)[here]
        maps = cuts if maps is None else _after(cuts, maps)
    corners = mirrored = None
    if plan.crop_padding:
        corners = torch.randint(0, 2 * plan.crop_padding + 1, (2, count), generator=generator)[:, here]
    if plan.flip:
        mirrored = (torch.rand(count, generator=generator) < 0.5)[here].nonzero()[:, 0]
    return Chances(maps, corners, mirrored)


def _maps(plan: Affine, count: int, generator: torch.Generator) -> Tensor:
    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

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
    return torch.stack(rows, 1).view(-1, 2, 3)


def _cuts(plan: ResizedCrop, count: int, generator: torch.Generator) -> Tensor:
    """A random part of each image as a map [N, 2, 3]; of several tries the first that lies within it."""
    area = torch.empty(count, TRIES).uniform_(*plan.area, generator=generator)
    ratio = torch.empty(count, TRIES).uniform_(*map(math.log, plan.ratio), generator=generator).exp()
    places = torch.rand(2, count, generator=generator) * 2 - 1
    wide, high = (area * ratio).sqrt(), (area / ratio).sqrt()
    fits = (wide <= 1) & (high <= 1)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    sides = [torch.where(found, side.gather(1, first)[:, 0], 1.0) for side in (wide, high)]
    zero = torch.zeros(count)
    rows = [sides[0], zero, places[0] * (1 - sides[0]), zero, sides[1], places[1] * (1 - sides[1])]
    return torch.stack(rows, 1).view(-1, 2, 3)


def _after(first: Tensor, then: Tensor) -> Tensor:
    """Maps [N, 2, 3] that look up where `then` says in what `first` has cut out."""
    turned = first[:, :, :2] @ then
    turned[:, :, 2] += first[:, :, 2]
    return turned


class Preparation:
    """uint8 images → the float32 that nets take, moved as chance has it and normalised by one multiply-add."""

    def __init__(self, plan: Augment, how: Preprocessing, device: torch.device) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (how.mean, how.std))
        width = how.size[1]  # a whole row of pixels at a time: three channels are too few for the processor's vectors
        self._gain = (1 / (255 * std)).repeat(width).to(device, torch.float32)
        self._shift = (-mean / std).repeat(width).to(device, torch.float32)
        self.padding = plan.crop_padding
        self._beyond = (
            "zeros" if plan.affine is not None else "border"
        )  # a cut ends within the image's outermost pixels

    def __call__(self, images: Tensor, chances: Chances | None = None) -> Tensor:
        """uint8 [N, H, W, C] → float32 [N, C, H, W], channels last; without chances it only normalises.

        Images are cut and turned, cropped and mirrored, in this order. What a move uncovers is black, as in the
        literature's padded crop.
        """
        count, height, width, channels = images.shape
        x = images
        if chances is not None:
            if chances.maps is not None:
                x = _mapped(x, chances.maps.to(x.device, non_blocking=True), self._beyond)
            if chances.corners is not None:
                x = _crop(x, self.padding, chances.corners.to(x.device, non_blocking=True))
            if chances.mirrored is not None:
                mirrored = chances.mirrored.to(x.device, non_blocking=True)
                x = x.index_copy(0, mirrored, x.index_select(0, mirrored).flip(2))
        rows = x.reshape(count, height, width * channels).to(torch.float32)
        ready = torch.addcmul(self._shift, rows, self._gain).view(count, height, width, channels)
        return ready.permute(0, 3, 1, 2)


def _mapped(images: Tensor, maps: Tensor, beyond: str) -> Tensor:
    """float32 [N, H, W, C], in the units of the uint8."""
    x = images.permute(0, 3, 1, 2).to(torch.float32)
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode=beyond, align_corners=False).permute(0, 2, 3, 1)


def _crop(images: Tensor, padding: int, corners: Tensor) -> Tensor:
    """[N, H, W, C] → the same, of the image with so many black pixels around it: whole rows are copied."""
    count, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, *(padding,) * 4)).contiguous()
    row, places = (width + 2 * padding) * channels, 2 * padding + 1
    strides = ((height + 2 * padding) * row, row, channels, row, 1)
    windows = padded.as_strided((count, places, places, height, width * channels), strides)
    samples = torch.arange(count, device=images.device)
    return windows[samples, corners[0], corners[1]].view(count, height, width, channels)
