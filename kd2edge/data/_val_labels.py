"""What ImageNet's validation images show, by any of the text files in use: they themselves say nothing of it."""

import re
from pathlib import Path

from kd2edge.data import Ints
from kd2edge.data._photo_set import lines_of, numbered_by, refuse_twice
from kd2edge.errors import UserError

WNID = re.compile(r"n[0-9]{8}")
NUMBER = re.compile(r"[0-9]{1,4}")
IMAGE = re.compile(r"(.*?_val_[0-9]{8})(?:\.[A-Za-z]+)?")
HINT = "lines such as ILSVRC2012_val_00000001.JPEG n01751748"


def read_val_labels(path: Path, names: list[str], wnids: list[str], synsets: Path | None) -> tuple[Ints, list[str]]:
    """int64 labels of the images of these names, and the classes: `wnids`, or where those are empty the list's own.

    Raises `UserError`, naming a line, for a list of another form, another length, or other images.
    """
    rows = [line.replace(",", " ").split() for line in lines_of(path, HINT)]
    if rows and rows[0] and not any(form.fullmatch(rows[0][0]) for form in (IMAGE, WNID, NUMBER)):
        rows = rows[1:]  # a .csv names its columns
    if len(rows) != len(names):
        raise UserError(f"{path} has {len(rows):,} lines for {len(names):,} validation images.", HINT)
    named = all(len(row) > 1 for row in rows)
    said = [row[named] if row and named == (len(row) > 1) else "" for row in rows]
    form = WNID if said and WNID.fullmatch(said[0]) else NUMBER
    odd = [number for number, one in enumerate(said, 1) if not form.fullmatch(one)]
    if odd or not rows:
        raise UserError(f"Line {odd[0] if odd else 1:,} of {path} does not name a class as the others do.", HINT)
    if not named:
        said = said if form is WNID else _by_number(said, path, synsets)
    else:
        said = _by_name([row[0] for row in rows], said, names, path)
        said = said if form is WNID else _counted(said, wnids, path)
    classes = wnids or sorted({*said})
    return numbered_by(said, classes, path), classes


def _by_number(said: list[str], path: Path, synsets: Path | None) -> list[str]:
    """The devkit's numbers as identifiers, by the list that says whose they are."""
    if synsets is None:
        raise UserError(
            f"{path} has numbers only, and whose they are is told by the devkit's meta.mat, which is not read.",
            "set data.synsets to a text file of the 1,000 identifiers in the order of their ILSVRC2012_ID, or take the "
            "class folders, or a list of names and identifiers as data.val_labels",
        )
    order = lines_of(synsets, "an identifier a line, as n01440764")
    listed = [line.split()[0] if line else "" for line in order]
    refuse_twice(listed, synsets)
    for number, one in enumerate(said, 1):
        if not 1 <= int(one) <= len(listed):
            raise UserError(f"Line {number:,} of {path} is {one}, and {synsets} lists {len(listed):,} classes.", HINT)
    return [listed[int(one) - 1] for one in said]


def _by_name(listed: list[str], said: list[str], names: list[str], path: Path) -> list[str]:
    """What is said of each image, whatever the order of the lines."""
    told = dict(zip((_stem(name) for name in listed), said, strict=True))
    missing = [name for name in names if _stem(name) not in told]
    if missing:
        raise UserError(f"{path} does not say what {missing[0]} shows.", HINT)
    return [told[_stem(name)] for name in names]


def _counted(said: list[str], wnids: list[str], path: Path) -> list[str]:
    """Numbers from 0 of the sorted classes, as Caffe's val.txt has them."""
    if not wnids:
        raise UserError(f"{path} counts the classes, and there are no training images to say which.", HINT)
    for one in said:
        if int(one) >= len(wnids):
            raise UserError(f"{path} says {one!r}, and there are the classes 0 to {len(wnids) - 1:,}.", HINT)
    return [wnids[int(one)] for one in said]


def _stem(name: str) -> str:
    found = IMAGE.fullmatch(name)
    return found[1] if found else name
