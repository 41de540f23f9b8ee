"""Face crops that are aligned and encoded already, one by one: decoded when read, refused if not as told."""

import io
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from PIL import Image, JpegImagePlugin

from kd2edge.data import Images, Ints, Preprocessing, Split, decoder_name
from kd2edge.errors import UserError, first_line

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
JPEG = b"\xff\xd8\xff"
# Pillow decodes outside the interpreter's lock, and holds it for a quarter of a small image's time.
THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
LEAST = 8  # images that are worth a thread
UNASKED = 1 << 26  # bytes of a batch that are taken because a header claims a size


class Aligned(Split):
    """`pixels` gives the image at a position as uint8 [H, W, 3]; nothing is decoded before `read`.

    A split whose `pixels` can be pickled can be handed to another process, which then opens its files anew.
    """

    def __init__(
        self, pixels: Callable[[int], Images], labels: Ints, classes: list[str], size: tuple[int, int], mark: str
    ) -> None:
        self.pixels, self.labels, self.classes, self.groups = pixels, labels, classes, {}
        self.size, self.mark = size, mark

    def read(self, index: Ints) -> Images:
        """As `Split.read`; raises `UserError`, naming the record, for one that cannot be decoded."""
        return read_all(self.pixels, index, (*self.size, 3))

    def fingerprint(self) -> str:
        """By what its file states of itself: no image is decoded."""
        return self.mark


def read_all(pixels: Callable[[int], Images], index: Ints, shape: tuple[int, int, int]) -> Images:
    """`pixels` at each position of `index`, on up to `THREADS` threads: uint8 [B, *shape].

    More than `UNASKED` bytes of memory are taken once the first image is decoded, never because a header claims a size.
    """
    positions = index.tolist()
    if not positions:
        return np.empty((0, *shape), np.uint8)
    first = pixels(positions[0]) if len(positions) * math.prod(shape) > UNASKED else None
    images = np.empty((len(positions), *shape), np.uint8)
    threads = min(THREADS, len(positions) // LEAST)
    rest = iter(range(len(positions)))  # whichever thread is free takes the next

    def fill() -> None:
        for place in rest:
            images[place] = pixels(positions[place]) if place or first is None else first

    if threads < 2:
        fill()
        return images
    pool = _pool(os.getpid(), THREADS)
    others = [pool.submit(fill) for _ in range(1, threads)]
    fill()
    for other in others:
        other.result()
    return images


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: those of its parent are not there in a forked one, and would be waited for."""
    return ThreadPoolExecutor(threads - 1)


def decoded(encoded: bytes, size: tuple[int, int], what: Callable[[], str] | str) -> Images:
    """One encoded image as RGB uint8 [H, W, 3]; `what` names it where it is refused. Its size is looked at first."""
    try:
        image = _opened(io.BytesIO(encoded), encoded.startswith(JPEG))
        if image.size != size[::-1]:
            raise ValueError(f"it is {image.height} x {image.width} pixels, not {size[0]} x {size[1]}")
        if image.mode != "RGB":
            image = image.convert("RGB")
        # What numpy asks of an image is more than its bytes, and takes an eighth of a small one's time.
        return np.frombuffer(image.tobytes(), np.uint8).reshape(*size, 3)
    except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, the record is at fault
        name = what if isinstance(what, str) else what()
        raise UserError(f"{name} cannot be decoded: {first_line(error)}.", "take the file anew") from None


def _opened(file: io.BytesIO, is_jpeg: bool) -> Image.Image:
    return JpegImagePlugin.JpegImageFile(file) if is_jpeg else Image.open(file, formats=FORMATS)


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
