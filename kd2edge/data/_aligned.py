"""Face crops that are aligned and encoded already, one by one: decoded when read, refused if not as told."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from kd2edge.data import Images, Ints, Preprocessing, Split, decoder_name
from kd2edge.errors import UserError, first_line

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
THREADS = min(4, os.cpu_count() or 1)  # Pillow decodes outside the interpreter's lock


class Aligned(Split):
    """`pixels` gives the image at a position as uint8 [H, W, 3]; nothing is decoded before `read`."""

    def __init__(
        self, pixels: Callable[[int], Images], labels: Ints, classes: list[str], size: tuple[int, int], mark: str
    ) -> None:
        self.pixels, self.labels, self.classes, self.groups = pixels, labels, classes, {}
        self.size, self.mark = size, mark

    def read(self, index: Ints) -> Images:
        """As `Split.read`; raises `UserError`, naming the record, for one that cannot be decoded."""
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(self.pixels, index.tolist()))
        return np.stack(images) if images else np.empty((0, *self.size, 3), np.uint8)

    def fingerprint(self) -> str:
        """By what its file states of itself: no image is decoded."""
        return self.mark


def decoded(encoded: bytes, size: tuple[int, int], what: str) -> Images:
    """One encoded image as RGB uint8 [H, W, 3]; `what` names it where it is refused. Its size is looked at first."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
            if (file.height, file.width) != size:
                raise ValueError(f"it is {file.height} x {file.width} pixels, not {size[0]} x {size[1]}")
            return np.asarray(file.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, the record is at fault
        raise UserError(f"{what} cannot be decoded: {first_line(error)}.", "take the file anew") from None


def preprocessing(size: tuple[int, int], mean: float, std: float) -> Preprocessing:
    """The same mean and std, in units of pixel / 255, for all three channels, as face nets have them."""
    return Preprocessing(
        size=size,
        channels=3,
        color="RGB",
        mean=(mean, mean, mean),
        std=(std, std, std),
        decoder=decoder_name("bilinear"),
    )
