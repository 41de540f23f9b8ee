"""Images kept out of training, and fewer of them: by their place within their class, never by chance."""

import numpy as np
import numpy.typing as npt

from kd2edge.data import Ints
from kd2edge.errors import UserError

Bools = npt.NDArray[np.bool_]


def last_tenth(labels: Ints) -> Bools:
    """bool [N]: whether an image is in the last tenth of its class, rounded up: what a "val" without a folder holds."""
    return _rank(labels) >= np.bincount(labels)[labels] * 9 // 10


def first_of_each(count: int, labels: Ints, classes: int) -> Bools:
    """bool [N]: the first images of each of so many classes, equally many, together `count`.

    Raises `UserError`, naming the key `data.train_images`, where a class has fewer.
    """
    each, least = count // classes, int(np.bincount(labels, minlength=classes).min())
    if each > least:
        raise UserError(
            f"data.train_images asks for {each:,} images of each class, and there are {least:,}.",
            f"at most {least * classes:,}",
        )
    return _rank(labels) < each


def no_split(subject: str, name: str, splits: list[str]) -> UserError:
    """What to tell who asks for a split that there is none of."""
    if name == "val":
        return UserError(
            f"{subject} has no 'val' split unless a tenth of the training images is held out for it.",
            "set data.holdout: true, or judge on 'train' and 'test' only",
        )
    return UserError(f"{subject} has no split {name!r}.", f"splits: {', '.join(splits)}")


def _rank(labels: Ints) -> Ints:
    """How many images of its own class stand before each image."""
    counts, order = np.bincount(labels), np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    return rank
