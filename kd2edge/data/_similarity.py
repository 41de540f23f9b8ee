"""Faces by five landmarks to the 112 x 112 crop that ArcFace nets expect, as everyone who publishes figures cuts them.

The transform is Umeyama's (PAMI 13, 1991, equations 40 to 43): least squares over rotation, scale and shift. The warp
repeats OpenCV's classic `warpAffine`, bilinear with a black border, in its integers: positions in 1/32 pixel.
"""

import numpy as np
import numpy.typing as npt

from kd2edge.data._images import Images
from kd2edge.errors import UserError

Doubles = npt.NDArray[np.float64]

SIDE = 112
TEMPLATE = np.array(  # eyes, nose, corners of the mouth, (x, y) in pixels, left in the image first
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
FRACTION = 5  # bits of a position behind the point when it is read
FINER = 10  # bits while it is summed
LANES = (0, 20, 40)
LARGEST = 2.0**31 - 1  # what a sum of positions saturates at


def align(image: Images, landmarks: npt.NDArray[np.floating]) -> Images:
    """The face in an RGB uint8 [H, W, 3] image with landmarks [5, 2] (x, y), as uint8 [112, 112, 3].

    Raises `UserError` as `similarity` does.
    """
    return warp(image, similarity(landmarks), SIDE)


def similarity(landmarks: npt.NDArray[np.floating], template: Doubles = TEMPLATE) -> Doubles:
    """The [2, 3] float64 matrix that takes `landmarks` [P, 2] nearest to `template` [P, 2], without a reflection.

    In the plane this is a regression of complex numbers, w = a z + b. Raises `UserError` for landmarks that are not
    finite, that all coincide, or that determine no scale because their best one is zero.
    """
    if not np.isfinite(landmarks).all():
        raise UserError("Its landmarks are not finite.", "take the list of landmarks anew")
    z, w = (np.asarray(points, np.float64) @ np.array([1, 1j]) for points in (landmarks, template))
    from_centre, to_centre = z - z.mean(), w - w.mean()
    spread = float(np.vdot(from_centre, from_centre).real)
    a = complex(np.vdot(from_centre, to_centre)) / spread if spread > 0 else 0j
    if not 1e-9 < abs(a) < 1e9 or spread < 1e-12 * max(1.0, float(np.abs(z).max()) ** 2):
        raise UserError("Its landmarks coincide, or lie so that no face fits them.", "take the list of landmarks anew")
    b = complex(w.mean()) - a * complex(z.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(image: Images, matrix: Doubles, side: int) -> Images:
    """Pixel (x, y) of the uint8 [side, side, 3] result is the image's at the inverse of `matrix` [2, 3] there.

    What lies outside of the uint8 [H, W, 3] image is black, also where it only enters the interpolation.
    """
    height, width = image.shape[:2]
    x, y = _positions(matrix, side)
    column = np.clip(x >> FRACTION, -2, width)
    row = np.clip(y >> FRACTION, -2, height)
    left, top = max(int(column.min()), -2), max(int(row.min()), -2)
    part = _framed(image, left, top, int(column.max()) + 2, int(row.max()) + 2)
    stride, pixels = part.shape[1], part.ravel()
    first = (row - top) * stride + (column - left)
    fx, fy = (axis & ((1 << FRACTION) - 1) for axis in (x, y))
    one = 1 << FRACTION
    corners = ((0, one - fx, one - fy), (1, fx, one - fy), (stride, one - fx, fy), (stride + 1, fx, fy))
    total = np.zeros((side, side), np.uint64)
    for offset, wx, wy in corners:
        total += _lanes(pixels.take(first + offset)) * (wx * wy).astype(np.uint64)
    return np.stack([_rounded(total >> np.uint64(lane)) for lane in LANES], axis=-1)


def _lanes(pixels: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Red, green and blue 20 bits apart, so that one multiplication weighs all three: 255 x 1024 has 18 bits."""
    red, green, blue = (pixels & np.uint32(0xFF << shift) for shift in (0, 8, 16))
    return np.asarray(red | green.astype(np.uint64) << np.uint64(12) | blue.astype(np.uint64) << np.uint64(24))


def _rounded(lane: npt.NDArray[np.uint64]) -> Images:
    half, shift = np.uint64(1 << (2 * FRACTION - 1)), np.uint64(2 * FRACTION)
    return np.asarray(((lane & np.uint64(0xFFFFF)) + half) >> shift, np.uint8)


def _positions(matrix: Doubles, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each pixel of the result lies in the image, int64 [side, side] of x and of y in 1/32 pixel.

    The products with x and those with y are rounded one by one, at 1/1024 pixel, and then summed: as OpenCV does.
    """
    (a, b, c), (d, e, f) = matrix
    determinant = a * e - b * d
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    c, f = -a * c - b * f, -d * c - e * f
    steps, scale, half = np.arange(side), 1 << FINER, 1 << (FINER - FRACTION - 1)

    def whole(values: Doubles) -> npt.NDArray[np.int64]:
        return np.clip(np.rint(values * scale), -LARGEST, LARGEST).astype(np.int64)

    x = whole(b * steps + c)[:, None] + whole(a * steps) + half
    y = whole(e * steps + f)[:, None] + whole(d * steps) + half
    return x >> (FINER - FRACTION), y >> (FINER - FRACTION)


def _framed(image: Images, left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.uint32]:
    """Columns left..right and rows top..bottom of an image, black where it has none; a pixel is one uint32."""
    height, width = image.shape[:2]
    part = np.zeros((bottom - top, right - left, 4), np.uint8)
    ours = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    at_row, at_column = max(-top, 0), max(-left, 0)
    inside = part[at_row : at_row + ours.shape[0], at_column : at_column + ours.shape[1]]
    for channel in range(3):  # three long copies are five times faster than many of three bytes
        inside[..., channel] = ours[..., channel]
    return part.view(np.uint32)[..., 0]
