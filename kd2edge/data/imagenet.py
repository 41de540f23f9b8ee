"""ImageNet: the 1,281,167 training and 50,000 validation photographs of ILSVRC 2012, of 1,000 classes.

Russakovsky et al., arXiv 1409.0575. Read from folders, or in place from the two official tars. Labels of its own test
part were never published: "test" is the official validation part, as in all reported figures.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kd2edge.data import Ints
from kd2edge.data._listed import Listed, folders, images, in_folders, refuse_other
from kd2edge.data._packed import Packed, Places
from kd2edge.data._photo_set import PhotoSet
from kd2edge.data._photos import PhotoConfig
from kd2edge.data._strings import Strings
from kd2edge.data._tar import Member, members
from kd2edge.data._tar_index import LARGEST, Index, index_of, indexed
from kd2edge.data._val_labels import read_val_labels
from kd2edge.errors import UserError

TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
WNID = re.compile(r"n\d{8}")
TAKE = "it needs train/<wnid>/*.JPEG and val, as folders, or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"


class Imagenet(PhotoSet):
    """Classes are WordNet identifiers, sorted, as in every published net. A part of the classes will do."""

    title = "ImageNet"

    class Config(PhotoConfig):
        """As of all sets of photographs; and where the validation images are not in class folders, `val_labels` is a
        text file that labels them: "ILSVRC2012_val_00000001.JPEG n01751748" or 65 a line (Caffe's val.txt counts sorted
        classes from 0), a .csv of such pairs, or only identifiers, in the images' order. For the devkit's
        ILSVRC2012_validation_ground_truth.txt, `synsets` lists the identifiers in the order of its numbers, from 1.
        Both may be relative to `path`.
        """

        val_labels: Path | None = None
        synsets: Path | None = None

    def official(self, judge: bool) -> Listed | Packed:
        return self._validation() if judge else self._training()

    def _training(self) -> Listed | Packed:
        root = self.config.path
        tar = root / TARS["train"]
        if (root / "train").is_dir():
            wnids = self._trained()
            return in_folders(root / "train", wnids, wnids, self.preprocessing())
        if not tar.is_file():
            raise UserError(f"There is no ImageNet to train on in {root}.", TAKE)
        index, stamp = indexed(tar, "imagenet train", partial(_tar_of_tars, tar))
        return Packed(_places(tar, index, stamp), index.labels, index.names, self.preprocessing())

    def _trained(self) -> list[str]:
        """The classes to train on, as far as the training images are there."""
        root = self.config.path
        tar = root / TARS["train"]
        if (root / "train").is_dir():
            return [name for name in folders(root / "train") if WNID.fullmatch(name)]
        return indexed(tar, "imagenet train", partial(_tar_of_tars, tar))[0].names if tar.is_file() else []

    def _validation(self) -> Listed | Packed:
        root, tar = self.config.path, self.config.path / TARS["val"]
        wnids = self._trained()
        if (root / "val").is_dir():
            found = [name for name in folders(root / "val") if WNID.fullmatch(name)]
            if found:
                refuse_other(wnids or found, found, f"train and val of {root}", TAKE)
                return in_folders(root / "val", found, found, self.preprocessing())
            names = images(root / "val")
            labels, wnids = self._listed(names, wnids)
            return Listed(root / "val", Strings(names), labels, wnids, self.preprocessing())
        if not tar.is_file():
            raise UserError(f"There is no ImageNet to judge by in {root}.", TAKE)
        index, stamp = indexed(tar, "imagenet val", partial(_tar_of_images, tar))
        labels, wnids = self._listed(index.names, wnids)
        return Packed(_places(tar, index, stamp), labels[index.labels], wnids, self.preprocessing())

    def _listed(self, names: list[str], wnids: list[str]) -> tuple[Ints, list[str]]:
        path = self.config.val_labels
        if path is None:
            raise UserError(
                f"The validation images of {self.config.path} are in no class folders, and no list labels them.",
                "set data.val_labels to a text file with a line an image: its name and its class, as n01751748",
            )
        synsets = self.config.synsets and self.config.path / self.config.synsets
        return read_val_labels(self.config.path / path, names, wnids, synsets)


def _places(tar: Path, index: Index, stamp: tuple[int, int]) -> Places:
    return Places([tar], np.zeros(len(index.labels), np.int32), index.offsets, index.sizes, [stamp])


def _tar_of_tars(path: Path, file: BinaryIO, size: int) -> Index:
    """A tar a class, each named by it: their images by class, in each one's order."""
    found: dict[str, Ints] = {}
    for outer in members(file, 0, size, str(path)):
        wnid = Path(outer.name).name.removesuffix(".tar")
        if not WNID.fullmatch(wnid) or wnid in found:
            raise UserError(f"{path} holds {outer.name!r}, which is no class's tar, or comes twice.", "take it anew")
        inner = members(file, outer.offset, outer.offset + outer.size, f"{wnid}.tar in {path}")
        found[wnid] = np.array([(image.offset, image.size) for image in _images(inner, path)], np.int64)
    wnids = sorted(found)
    return index_of(((*place, label) for label, wnid in enumerate(wnids) for place in found[wnid].tolist()), wnids)


def _tar_of_images(path: Path, file: BinaryIO, size: int) -> Index:
    """The images by name, which is their number; each one's label is its place in that order."""
    found = sorted(
        (Path(one.name).name, one.offset, one.size) for one in _images(members(file, 0, size, str(path)), path)
    )
    return index_of(
        [(offset, size, place) for place, (_, offset, size) in enumerate(found)], [name for name, *_ in found]
    )


def _images(found: Iterator[Member], path: Path) -> Iterator[Member]:
    for member in found:
        suited = member.name.lower().endswith((".jpeg", ".jpg", ".png")) and member.name.isprintable()
        if not suited or member.size > LARGEST:
            raise UserError(f"{path} holds {member.name[-100:]!r}, which is no image of the set.", "take it anew")
        yield member
