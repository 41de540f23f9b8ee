"""Photographs of any size as inputs of one size: the keys by which every such data set says how, with one meaning."""

from pathlib import Path

from pydantic import Field

from kd2edge.data import Preprocessing, decoder_name
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig, configure

# ImageNet's constants, and for grey images their averages.
MEAN = {"RGB": (0.485, 0.456, 0.406), "L": (0.449,)}
STD = {"RGB": (0.229, 0.224, 0.225), "L": (0.226,)}
RATIO = 8 / 7  # 256 before the cut of 224 is how ImageNet's figures are measured


class PhotoConfig(PluginConfig):
    """`path` is the folder of the set. `size` is the side of the net's input, or [H, W].

    Images are scaled until their shorter side has `resize` pixels, by default 8/7 of the size's longer side, then the
    centre is cut. `mean` and `std` are in units of pixel / 255 and default to ImageNet's. `holdout` keeps the last
    tenth of each training class out of "train" as a "val".
    """

    path: Path
    size: int | tuple[int, int] = 224
    resize: int | None = Field(default=None, ge=1)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    holdout: bool = False


def photo_preprocessing(config: PhotoConfig, subject: str) -> Preprocessing:
    """How photographs become inputs by these keys. Raises `UserError` for keys that contradict one another."""
    size = config.size if isinstance(config.size, tuple) else (config.size, config.size)
    shorter = config.resize or round(max(size) * RATIO)
    return stated(subject, size, "RGB", config.mean, config.std, shorter)


def stated(
    subject: str,
    size: tuple[int, int],
    color: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    shorter: int | None,
) -> Preprocessing:
    """The preprocessing of these constants, ImageNet's where None. Raises `UserError` where the cut would not fit."""
    if shorter is not None and shorter < max(size):
        raise UserError(
            f"{subject} scales the shorter side to {shorter}, and {size[0]} x {size[1]} cannot be cut out of that.",
            f"set data.resize to {max(size)} or more",
        )
    options = {
        "size": size,
        "channels": len(color),
        "color": color,
        "mean": mean or MEAN[color],
        "std": std or STD[color],
        "decoder": decoder_name("bilinear", shorter),
    }
    return configure(Preprocessing, options, subject)
