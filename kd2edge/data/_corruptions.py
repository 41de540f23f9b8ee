"""Damage that cameras, lenses and transmission do to images, in five severities, by numpy and Pillow alone.

Kinds after Hendrycks and Dietterich (1903.12261); the parameters are this file's own, and go with the shorter side of
an image, so that a severity means about the same at 32 and at 224 pixels: blur in shares of the side, noise stronger
by the cube root of it (a net averages over more pixels), JPEG coarser by its square root (a block is less of the
image). Chance is drawn from counters: an image's damage depends on its position in its split, never on what is read
with it.
"""

import io
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from kd2edge.data._images import Images
from kd2edge.schema.corruption import CorruptionKind

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

KINDS: tuple[CorruptionKind, ...] = get_args(CorruptionKind)
SIDE = 32  # pixels, at which the tables below hold as they stand
NOISE = (0.04, 0.06, 0.08, 0.11, 0.15)  # standard deviation where white is 1; of shot noise, that of white
BLUR = (0.010, 0.015, 0.020, 0.026, 0.034)  # standard deviation of the kernel in shorter sides
QUALITY = (80, 65, 50, 40, 30)  # of JPEG, at most 95
LIGHT = (0.08, 0.16, 0.24, 0.32, 0.40)  # added where white is 1
CONTRAST = (0.75, 0.55, 0.40, 0.28, 0.18)  # share of the contrast that is left


def corrupt(images: Images, kind: CorruptionKind, severity: int, places: Ints, seed: int = 0) -> Images:
    """uint8 [B, H, W, C] images, C 1 or 3, damaged; `places` int64 [B] are their positions in the split.

    Raises `ValueError` for a severity outside 1..5 or an unknown kind.
    """
    if severity not in range(1, 6):
        raise ValueError(f"a severity lies in 1..5, not at {severity}")
    if kind in ("gaussian_noise", "shot_noise"):
        return _noisy(images, kind, severity, places, seed)
    return PLAIN[kind](images, severity - 1)


def _noisy(images: Images, kind: CorruptionKind, severity: int, places: Ints, seed: int) -> Images:
    spread = NOISE[severity - 1] * (_side(images) / SIDE) ** (1 / 3)
    out = np.empty_like(images)
    for image, damaged, place in zip(images, out, places.tolist(), strict=True):
        random = np.random.default_rng([seed, KINDS.index(kind), severity, place])
        white = np.asarray(image, np.float32) / 255
        if kind == "gaussian_noise":
            seen = white + np.float32(spread) * random.standard_normal(image.shape, np.float32)
        else:
            seen = random.poisson(white / spread**2) * spread**2
        damaged[...] = _eight_bits(255 * seen)
    return out


def _blurred(images: Images, step: int) -> Images:
    """A separable Gaussian kernel, cut off at four deviations; beyond the edge the image is mirrored."""
    sigma = BLUR[step] * _side(images)
    reach = max(1, round(4 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    once = _smoothed(images.astype(np.float32), weights, axis=1)
    return _eight_bits(_smoothed(once, weights, axis=2))


def _smoothed(images: Floats, weights: Sequence[float] | npt.NDArray[np.float64], axis: int) -> Floats:
    reach, length = len(weights) // 2, images.shape[axis]
    padding = [(reach, reach) if number == axis else (0, 0) for number in range(4)]
    padded, out = np.pad(images, padding, mode="symmetric"), np.zeros_like(images)
    for start, weight in enumerate(weights):
        out += np.float32(weight) * np.take(padded, np.arange(start, start + length), axis=axis)
    return out


def _compressed(images: Images, step: int) -> Images:
    quality = min(95, round(QUALITY[step] * (SIDE / _side(images)) ** 0.5))
    out = np.empty_like(images)
    for image, damaged in zip(images, out, strict=True):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            damaged[...] = np.asarray(read).reshape(image.shape)
    return out


def _lightened(images: Images, step: int) -> Images:
    return _eight_bits(images.astype(np.float32) + np.float32(255 * LIGHT[step]))


def _flattened(images: Images, step: int) -> Images:
    """Towards the mean of each channel of each image."""
    seen = images.astype(np.float32)
    mean = seen.mean(axis=(1, 2), keepdims=True)
    return _eight_bits(mean + np.float32(CONTRAST[step]) * (seen - mean))


def _side(images: Images) -> int:
    height, width = images.shape[1:3]
    return int(min(height, width))


def _eight_bits(levels: npt.NDArray[np.floating]) -> Images:
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


PLAIN: dict[CorruptionKind, Callable[[Images, int], Images]] = {
    "gaussian_blur": _blurred,
    "jpeg": _compressed,
    "brightness": _lightened,
    "contrast": _flattened,
}
