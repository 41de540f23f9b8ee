"""From an image file to a network's input: decode and align to uint8 through Pillow, then mean and std.

The geometry is that of ImageNet evaluation: scale until the target is covered, then cut its centre. The constants and
the decoder's version travel in the artifact's manifest, so that the device repeats exactly what training saw.
"""

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


def decoder_name(resize: str) -> str:
    """The name by which a manifest remembers this decoder: library, version, resize filter."""
    return f"pillow {PIL.__version__}/{resize}"


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


def decode(path: Path | str | BytesIO, p: Preprocessing) -> Images:
    """One image file, or its bytes, as uint8 [H, W, C] in `p.color`, upright by its EXIF tag, cut about its centre.

    It is scaled to cover `p.size` by the filter named at the end of `p.decoder`; Pillow antialiases when it shrinks.
    Raises `UserError`, naming the file, if it is missing or cannot be decoded.
    """
    resize = FILTERS.get(p.decoder.rsplit("/", 1)[-1])
    if resize is None:
        raise UserError(f"No decoder {p.decoder!r} here.", f"its filter must be one of {', '.join(FILTERS)}")
    name = "The image" if isinstance(path, BytesIO) else path
    try:
        with Image.open(path) as file:
            upright = _eight_bits(ImageOps.exif_transpose(file)).convert(p.color)
    except FileNotFoundError:
        raise UserError(f"There is no image file {path}.") from None
    except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, the file is at fault
        raise UserError(f"{name} cannot be decoded: {error}", "replace the file or take it out of the folder") from None
    pixels = np.asarray(_cover(upright, p.size, resize))
    return pixels.reshape(*p.size, p.channels)


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
    scaled = image if covering == image.size else image.resize(covering, resize)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return scaled.crop((left, top, left + width, top + height))
