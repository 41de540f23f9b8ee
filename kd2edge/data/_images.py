"""From an image file to a network's input: decode and align to uint8 through Pillow, then mean and std.

The geometry is that of ImageNet evaluation: scale until the target is covered, or until the shorter side is as long as
the decoder's name says, then cut the centre. The constants and the decoder's version travel in the artifact's manifest,
so that the device repeats exactly what training saw.
"""

import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps

from kd2edge.errors import UserError
from kd2edge.schema import Preprocessing

Images = npt.NDArray[np.uint8]

FILTERS = {"box": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR}
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some that Pillow knows besides run other programs


def decoder_name(resize: str, shorter: int | None = None) -> str:
    """The name by which a manifest remembers this decoder: library, version, resize filter, shorter side if any."""
    return f"pillow {PIL.__version__}/{resize}" + (f" {shorter}" if shorter else "")


def shorter_side(p: Preprocessing) -> int | None:
    """How many pixels the shorter side is scaled to before the cut; None where `p.size` is merely covered."""
    return _filter(p)[1]


def normalize(images: Images, p: Preprocessing) -> npt.NDArray[np.float32]:
    """(x / 255 - mean) / std: uint8 [B, H, W, C] to contiguous float32 [B, C, H, W].

    Raises `UserError` if the images are not of the size and channels that `p` states.
    """
    expected = (*p.size, p.channels)
    if images.shape[1:] != expected:
        raise UserError(f"The images are {images.shape[1:]} (H, W, C), but the preprocessing states {expected}.")
    out = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    out /= np.float32(255)
    out -= np.asarray(p.mean, np.float32).reshape(-1, 1, 1)
    out /= np.asarray(p.std, np.float32).reshape(-1, 1, 1)
    return out


def decode(path: Path | str | BytesIO, p: Preprocessing, what: Callable[[], str] | None = None) -> Images:
    """One image file, or its bytes, as uint8 [H, W, C] in `p.color`, upright by its EXIF tag, cut about its centre.

    It is scaled to cover `p.size`, or to a shorter side, by the filter named at the end of `p.decoder`; Pillow
    antialiases when it shrinks. `what` names it where it is refused. Raises `UserError`, naming the file, if it is
    missing or cannot be decoded.
    """
    resize, shorter = _filter(p)
    try:
        with Image.open(path, formats=FORMATS) as file:
            if Image.MAX_IMAGE_PIXELS is not None and math.prod(file.size) > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"it claims {file.height:,} x {file.width:,} pixels")  # of which Pillow only warns
            upright = _eight_bits(ImageOps.exif_transpose(file)).convert(p.color)
        cut = _shortened(upright, p.size, shorter, resize) if shorter else _cover(upright, p.size, resize)
    except FileNotFoundError:
        raise UserError(f"There is no image file {path}.") from None
    except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, the file is at fault
        name = what() if what is not None else "The image" if isinstance(path, BytesIO) else path
        raise UserError(f"{name} cannot be decoded: {error}", "replace the file or take it out of the folder") from None
    return np.asarray(cut).reshape(*p.size, p.channels)


def _filter(p: Preprocessing) -> tuple[Image.Resampling, int | None]:
    resize, _, shorter = p.decoder.rpartition("/")[2].partition(" ")
    if resize not in FILTERS or not (shorter.isdecimal() or not shorter):
        raise UserError(f"No decoder {p.decoder!r} here.", f"its filter must be one of {', '.join(FILTERS)}")
    return FILTERS[resize], int(shorter) if shorter else None


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey levels by their upper byte: Pillow's own conversion would clip them at 255."""
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit, of unknown range")
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _cover(image: Image.Image, size: tuple[int, int], resize: Image.Resampling) -> Image.Image:
    height, width = size
    scale = max(height / image.height, width / image.width)
    covering = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    scaled = image if covering == image.size else _resized(image, covering, resize)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def _shortened(image: Image.Image, size: tuple[int, int], shorter: int, resize: Image.Resampling) -> Image.Image:
    """The shorter side scaled to so many pixels, then the centre cut, with the roundings of torchvision's
    Resize and CenterCrop, by which the field's figures are measured: the longer side down, the corner to even.
    """
    scale = min(image.size)
    scaled = _resized(image, (image.width * shorter // scale, image.height * shorter // scale), resize)
    left, top = round((scaled.width - size[1]) / 2), round((scaled.height - size[0]) / 2)
    return scaled.crop((left, top, left + size[1], top + size[0]))


def _resized(image: Image.Image, size: tuple[int, int], resize: Image.Resampling) -> Image.Image:
    """A file of a kilobyte may be a line of a million pixels: as broad as is asked it would fill the memory."""
    if Image.MAX_IMAGE_PIXELS is not None and math.prod(size) > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"it is {image.height:,} x {image.width:,} pixels, too long for its width")
    return image.resize(size, resize)
