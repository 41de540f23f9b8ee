"""Small real things that several tests share: an image folder, nets and a recipe that train in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 70), "red": (210, 50, 40)}


def image_folder(root: Path, per_class: int = 16, size: int = 20, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """Noisy patches of three colours under root/split/class/."""
    generator = np.random.default_rng(7)
    for split in splits:
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                noise = generator.normal(0, 40, (size, size, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


def repaint(folder: Path) -> None:
    """Blacken one image of a class."""
    path = sorted(folder.iterdir())[0]
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)


def net(
    widths: tuple[int, int, int] = (8, 8, 16), embedding: int | None = None, head: str = "linear"
) -> dict[str, Any]:
    """The section of a small ResNet-8."""
    return {
        "model": {"name": "resnet_cifar", "arch": "8", "widths": list(widths)},
        "embedding": embedding,
        "head": {"name": head},
    }


def recipe(folder: Path, method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A classification recipe on `image_folder` that trains for two epochs of six steps."""
    train = {"epochs": 2, "batch": 8, "lr": 0.02, "precision": "fp32", "augment": {"flip": True, "crop_padding": 2}}
    return {
        "about": "a tiny recipe",
        "task": "classification",
        "data": {"name": "imagefolder", "path": str(folder), "size": 16},
        "teacher": {**net((8, 16, 24)), "train": train},
        "student": net(),
        "method": method,
        "train": train,
        "quantize": {"images": 24},
        "suite": "classification",
        **changes,
    }
