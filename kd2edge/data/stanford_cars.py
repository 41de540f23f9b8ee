"""Stanford Cars: 8,144 training and 8,041 test photographs of 196 makes and models.

Krause et al., "3D Object Representations for Fine-Grained Categorization", 3dRR 2013. Read from the authors' files, or
from class folders under `train` and `test`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.data import Ints
from kd2edge.data._listed import Listed, folders, in_folders, refuse_other
from kd2edge.data._mat import read_mat
from kd2edge.data._photo_set import PhotoSet, refuse_paths, refuse_twice
from kd2edge.data._strings import Strings
from kd2edge.errors import UserError

LISTS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
TAKE = (
    "it needs cars_train, cars_test, and in devkit cars_meta.mat, cars_train_annos.mat and "
    "cars_test_annos_withlabels.mat; or class folders under train and test"
)


class StanfordCars(PhotoSet):
    """Classes in the authors' order; those of class folders sorted by name. Whole images, not cut to the boxes."""

    title = "Stanford Cars"

    def official(self, judge: bool) -> Listed:
        root, part = self.config.path, "test" if judge else "train"
        if not (root / f"cars_{part}").is_dir() and (root / part).is_dir():
            return self._sorted(part)
        classes = read_mat(_there(root, "cars_meta.mat"), "class_names", TAKE)
        if not classes or not all(isinstance(name, str) for name in classes):
            raise UserError(f"{root / 'devkit' / 'cars_meta.mat'} does not name the classes.", TAKE)
        path = _there(root, LISTS[part])
        names, labels = _rows(read_mat(path, "annotations", TAKE), len(classes), path)
        return Listed(root / f"cars_{part}", Strings(names), labels, classes, self.preprocessing())

    def _sorted(self, part: str) -> Listed:
        """Class folders, which must be the same in both parts."""
        root = self.config.path
        classes = folders(root / part)
        for other in ("train", "test"):
            refuse_other(classes, folders(root / other), f"{root / part} and {root / other}", TAKE)
        return in_folders(root / part, classes, classes, self.preprocessing())


def _there(root: Path, name: str) -> Path:
    for path in (root / "devkit" / name, root / name):
        if path.is_file():
            return path
    raise UserError(f"Of Stanford Cars in {root} there is no {name}.", TAKE)


def _rows(rows: list[Any], classes: int, path: Path) -> tuple[list[str], Ints]:
    """The file and the class, counted from 1, of each image."""
    names, labels = [], []
    for number, row in enumerate(rows, 1):
        name, said = (row.get("fname"), row.get("class")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(said, int | float) or not 1 <= said <= classes or said % 1:
            raise UserError(f"{path} does not say the file and class, 1 to {classes}, of its image {number:,}.", TAKE)
        names.append(name)
        labels.append(int(said) - 1)
    refuse_paths(names, path)
    refuse_twice(names, path)
    return names, np.array(labels, np.int64)
