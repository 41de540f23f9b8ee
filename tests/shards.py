"""Tars of small images, as Python's own `tarfile` writes them: WebDataset shards and ImageNet's archives."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 8

Pixels = npt.NDArray[np.uint8]


def drawn(number: int, side: int = SIDE) -> Pixels:
    """The image of that number, which no other equals."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(number: int, side: int = SIDE, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(drawn(number, side)).save(out, form)
    return out.getvalue()


def tar_of(files: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT, **fields: Any) -> bytes:
    """A tar of these files in order; `fields` of each header are as given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def samples(numbers: range, classes: int = 5, field: str = "") -> list[tuple[str, bytes]]:
    """Image and label of each number: `.cls`, or with `field` a `.json`."""
    found = []
    for number in numbers:
        label = number % classes
        told = ("json", json.dumps({"id": number, field: label}).encode()) if field else ("cls", str(label).encode())
        found += [(f"{number:04d}.png", encoded(number)), (f"{number:04d}.{told[0]}", told[1])]
    return found


def write_shards(folder: Path, per_shard: int = 6, count: int = 3, **options: Any) -> Path:
    """`folder`/train/000.tar and so on, and one shard of test."""
    for split, shards in (("train", count), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for shard in range(shards):
            numbers = range(per_shard * shard, per_shard * (shard + 1))
            (folder / split / f"{shard:03d}.tar").write_bytes(tar_of(samples(numbers, **options)))
    return folder
