"""The forms in which CIFAR-10 and CIFAR-100 are found: official binary and Python versions, and arrays made of them.

A binary record is a byte for each label and the red, green and blue planes of 32 x 32 pixels, row by row. The Python
version is a pickled dict of the same bytes, which is read without unpickling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.data import Images, Ints
from kd2edge.data._npz import read_npz
from kd2edge.data._unpickle import unpickle
from kd2edge.data._unpickle_names import Array
from kd2edge.errors import UserError

SIDE = 32
PIXELS = SIDE * SIDE * 3
ARRAYS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))  # names in an .npz of both splits; in one of its own: without

Columns = dict[str, Ints]
Read = Callable[[str], tuple[Images, Columns]]


@dataclass(frozen=True)
class Kind:
    """What tells the two sets apart.

    `columns` are the label bytes of a binary record, in order, and how many classes each has: the last is the finest.
    `binary` and `python` are what the official archives unpack to; `take` says what to do where nothing is found.
    """

    name: str
    slug: str
    columns: Mapping[str, int]
    batches: Mapping[str, list[str]]
    binary: str
    python: str
    take: str

    @property
    def stems(self) -> list[str]:
        return [stem for stems in self.batches.values() for stem in stems]

    @property
    def finest(self) -> str:
        return list(self.columns)[-1]


@dataclass(frozen=True)
class Form:
    """Files that belong together, the folder that their archive unpacks to, and what reads a split of them.

    `title` is the whole's name where one of the files is missing, and `hint` what to do about it.
    """

    title: str
    files: list[str]
    unpacked: str
    read: Callable[[Path, str], tuple[Images, Columns]]
    hint: str


def find(kind: Kind, path: Path, further: list[Form]) -> Read:
    """What reads a split of the first form that is there. Raises `UserError` where none is, or not whole."""
    if path.is_file() and path.suffix == ".npz":
        return lambda name: _arrays(path, name, kind)
    forms = [_binary(kind), *further, _python(kind)]
    for form in forms:
        for folder in (path, path / form.unpacked):
            missing = [name for name in form.files if not (folder / name).is_file()]
            if not missing:
                return lambda name, form=form, folder=folder: form.read(folder, name)  # type: ignore[misc]
            if len(missing) < len(form.files):
                raise UserError(f"Of {form.title} in {folder} the file {missing[0]} is missing.", form.hint)
    for one in (path / f"{kind.slug}.npz", path / f"{kind.slug.replace('-', '')}.npz"):
        if one.is_file():
            return lambda name, one=one: _arrays(one, name, kind)  # type: ignore[misc]
    if all((path / f"{name}.npz").is_file() for name in ("train", "test")):
        return lambda name: _arrays(path / f"{name}.npz", name, kind)
    raise _nothing(kind, path)


def _nothing(kind: Kind, path: Path) -> UserError:
    packed = [path] if path.name.endswith((".tar.gz", ".tgz")) else sorted(path.glob(f"{kind.slug}-*.tar.gz"))
    if packed and packed[0].is_file():
        return UserError(
            f"{packed[0]} is an archive, and archives are not read in place.",
            f"tar -xzf {packed[0]} -C {packed[0].parent}, then set data.path={packed[0].parent}",
        )
    return UserError(f"There is no {kind.name} in {path}.", kind.take)


def _binary(kind: Kind) -> Form:
    def read(folder: Path, name: str) -> tuple[Images, Columns]:
        return _joined([_records(folder / f"{stem}.bin", kind) for stem in kind.batches[name]])

    return Form(kind.name, [f"{stem}.bin" for stem in kind.stems], kind.binary, read, kind.take)


def _python(kind: Kind) -> Form:
    def read(folder: Path, name: str) -> tuple[Images, Columns]:
        return _joined([_pickled(folder / stem, kind) for stem in kind.batches[name]])

    hint = f"unpack it anew, or take the binary version instead: {kind.slug}-binary.tar.gz"
    return Form(f"the Python version of {kind.name}", kind.stems, kind.python, read, hint)


def _joined(parts: list[tuple[Images, Columns]]) -> tuple[Images, Columns]:
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
    return np.concatenate([images for images, _ in parts]), columns


def _records(path: Path, kind: Kind) -> tuple[Images, Columns]:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    size = len(kind.columns) + PIXELS
    if not len(data) or len(data) % size:
        raise UserError(f"{path} is damaged: {len(data):,} bytes are no whole records of {size:,}.", kind.take)
    records = data.reshape(-1, size)
    listed = {name: records[:, place].astype(np.int64) for place, name in enumerate(kind.columns)}
    return _planes(records[:, len(kind.columns) :]), _valid(listed, path, kind)


def _pickled(path: Path, kind: Kind) -> tuple[Images, Columns]:
    """A dict of `data`, uint8 [N, 3072], and a list for each column of labels; Python 2's keys are bytes."""
    tree = unpickle(path, dicts=True)
    if not isinstance(tree, dict):
        raise _damaged(path, "it holds no dict", kind)
    named = {name.decode("latin-1") if isinstance(name, bytes) else name: item for name, item in tree.items()}
    data = getattr(named.get("data"), "value", None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise _damaged(path, f"its 'data' is no uint8 array of rows of {PIXELS:,}", kind)
    listed = {name: _listed(named.get(name), len(data), f"its {name!r}", path, kind) for name in kind.columns}
    return _planes(data), _valid(listed, path, kind)


def _arrays(path: Path, name: str, kind: Kind) -> tuple[Images, Columns]:
    """An .npz of images uint8 [N, 32, 32, 3] and finest labels, whole numbers [N] or [N, 1], by one of `ARRAYS`."""
    pairs = [(images.format(name), labels.format(name)) for images, labels in ARRAYS]
    both = path.stem not in ("train", "test")
    found = read_npz(path, pairs if both else [*pairs, ("images", "labels")], kind.take)
    images, labels = found
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3) or not len(images):
        what = f"{images.dtype.name} {list(images.shape)}"
        raise UserError(f"{path} holds images of {what}, not of uint8 [N, {SIDE}, {SIDE}, 3].", kind.take)
    listed = _listed(labels, len(images), "its labels", path, kind)
    return images, _valid({kind.finest: listed}, path, kind)


def _planes(rows: Images) -> Images:
    """Rows of three planes as contiguous uint8 [N, 32, 32, 3]."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _listed(labels: Any, count: int, what: str, path: Path, kind: Kind) -> Ints:
    """int64 [count] of a list or array of whole numbers; what no class can be is -1."""
    values = labels.value if isinstance(labels, Array) else labels
    if isinstance(values, np.ndarray):
        whole = values.dtype.kind in "iu" and values.size == len(values)
        values = np.clip(values.reshape(-1), -1, 255).tolist() if whole else None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise _damaged(path, f"{what} are no list of whole numbers", kind)
    if len(values) != count:
        raise _damaged(path, f"{what} are {len(values):,} for {count:,} images", kind)
    return np.array([value if 0 <= value < 256 else -1 for value in values], np.int64)


def _valid(listed: Columns, path: Path, kind: Kind) -> Columns:
    for name, labels in listed.items():
        refuse_labels(labels, kind.columns[name], path, kind.take)
    return listed


def refuse_labels(labels: Ints, classes: int, path: Path, hint: str) -> None:
    """Raise `UserError` for a label that is none of so many classes."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(f"{path} is damaged: its label number {wrong[0] + 1:,} is not of 0 to {classes - 1}.", hint)


def _damaged(path: Path, why: str, kind: Kind) -> UserError:
    return UserError(f"{path} is damaged: {why}.", kind.take)
