"""FoodX-251: 118,475 training photographs of 251 dishes, labelled by the web, and 11,994 that people labelled.

Kaur et al., arXiv 1907.06167; the iFood 2019 challenge. Labels of its own test part were not published with it: "test"
is the official validation part, in "val_set".
"""

import csv
import io
from pathlib import Path

import numpy as np

from kd2edge.data import Ints
from kd2edge.data._listed import Listed
from kd2edge.data._photo_set import PhotoSet, lines_of, refuse_paths, refuse_twice
from kd2edge.data._strings import Strings
from kd2edge.errors import UserError

LISTS = ("{}_labels.csv", "{}_info.csv")  # as the challenge and as the authors' annot.tar name them
FOLDERS = ("{}_set", "{}")
CLASSES = "class_list.txt"
TAKE = f"it needs {CLASSES}, train_labels.csv and val_labels.csv (or ..._info.csv), train_set and val_set"


class FoodX251(PhotoSet):
    """Labels are the lists' own numbers, images in the lists' order."""

    title = "FoodX-251"

    def official(self, judge: bool) -> Listed:
        root, part = self.config.path, "val" if judge else "train"
        classes = _classes(root / CLASSES)
        listed = _there(root, part, LISTS)
        names, labels = _rows(listed, len(classes))
        return Listed(_there(root, part, FOLDERS), Strings(names), labels, classes, self.preprocessing())


def _there(root: Path, part: str, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name.format(part)).exists():
            return root / name.format(part)
    raise UserError(f"Of FoodX-251 in {root} there is no {names[0].format(part)}.", TAKE)


def _classes(path: Path) -> list[str]:
    """Lines of a number, from 0 in turn, and a name."""
    names = []
    for number, line in enumerate(lines_of(path, TAKE)):
        said, _, name = line.partition(" ")
        if said != str(number) or not name:
            raise UserError(f"Line {number + 1:,} of {path} is not {number} and a name.", TAKE)
        names.append(name.strip())
    if len(set(names)) < len(names) or not names:
        raise UserError(f"{path} does not name its classes, each once.", TAKE)
    return names


def _rows(path: Path, classes: int) -> tuple[list[str], Ints]:
    """Lines of a file's name and its label; a first line without a label names the columns."""
    try:
        rows = [row for row in csv.reader(io.StringIO("\n".join(lines_of(path, TAKE)))) if row]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read: {error}.", TAKE) from None
    titled = bool(rows) and len(rows[0]) == 2 and not rows[0][1].strip().isdecimal()
    for number, row in enumerate(rows[titled:], 1 + titled):
        said = row[1].strip() if len(row) == 2 else ""
        if not (said.isascii() and said.isdecimal() and len(said) <= 9 and int(said) < classes):
            raise UserError(f"Line {number:,} of {path} is no image and a label of 0 to {classes - 1}.", TAKE)
    names = [row[0].strip() for row in rows[titled:]]
    refuse_paths(names, path)
    refuse_twice(names, path)
    return names, np.array([int(row[1]) for row in rows[titled:]], np.int64)
