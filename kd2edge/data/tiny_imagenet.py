"""Tiny ImageNet: 100,000 training and 10,000 validation photographs of 200 of ImageNet's classes, 64 x 64 pixels.

The unpacked tiny-imagenet-200.zip of Stanford's course CS231n. Labels of its own test part were never published: "test"
is the official validation part, as in all reported figures.
"""

from pathlib import Path

from pydantic import Field

from kd2edge.data._listed import Listed, folders, in_folders, refuse_other
from kd2edge.data._photo_set import PhotoSet, lines_of, numbered_by, refuse_paths, refuse_twice
from kd2edge.data._photos import PhotoConfig
from kd2edge.data._strings import Strings
from kd2edge.errors import UserError

SIDE = 64
UNPACKED = "tiny-imagenet-200"
NEEDED = ("wnids.txt", "train", "val/val_annotations.txt", "val/images")
TAKE = (
    "unpack tiny-imagenet-200.zip there; for a copy whose val images were sorted into class folders, take "
    "data.name=imagefolder"
)


class TinyImagenet(PhotoSet):
    """Classes are sorted by their WordNet identifiers, as readers of class folders do, not as wnids.txt has them."""

    title = "Tiny ImageNet"

    class Config(PhotoConfig):
        """As of all sets of photographs, at their own size: `size` 64, and without `resize` nothing is cut off."""

        size: int | tuple[int, int] = SIDE
        resize: int | None = Field(default=SIDE, ge=1)

    def __init__(self, config: Config) -> None:
        path = config.path / UNPACKED if (config.path / UNPACKED).is_dir() else config.path
        super().__init__(config.model_copy(update={"path": path}))
        missing = [name for name in NEEDED if not (path / name).exists()]
        if missing:
            raise UserError(f"Of Tiny ImageNet in {path} there is no {missing[0]}.", TAKE)

    def official(self, judge: bool) -> Listed:
        root = self.config.path
        wnids = sorted(lines_of(root / "wnids.txt", TAKE))
        refuse_paths(wnids, root / "wnids.txt")
        refuse_twice(wnids, root / "wnids.txt")
        classes = _called(wnids, root / "words.txt")
        if judge:
            return self._validation(root / "val", wnids, classes)
        refuse_other(wnids, folders(root / "train"), f"{root / 'wnids.txt'} and {root / 'train'}", TAKE)
        return in_folders(root / "train", wnids, classes, self.preprocessing(), "images")

    def _validation(self, folder: Path, wnids: list[str], classes: list[str]) -> Listed:
        """In the order of its list: lines of a file's name, its class and a box, parted by tabs."""
        path = folder / "val_annotations.txt"
        rows = [line.split("\t") for line in lines_of(path, TAKE)]
        for number, row in enumerate(rows, 1):
            if len(row) < 2:
                raise UserError(f"Line {number:,} of {path} names no image and class.", TAKE)
        names = [row[0] for row in rows]
        refuse_paths(names, path)
        refuse_twice(names, path)
        labels = numbered_by((row[1] for row in rows), wnids, path)
        return Listed(folder / "images", Strings(names), labels, classes, self.preprocessing())


def _called(wnids: list[str], words: Path) -> list[str]:
    """Each identifier with the first of its words, which alone may name two classes."""
    named = dict(line.split("\t", 1) for line in lines_of(words, TAKE) if "\t" in line) if words.is_file() else {}
    return [f"{wnid} {named.get(wnid, '').split(',')[0]}".rstrip() for wnid in wnids]
