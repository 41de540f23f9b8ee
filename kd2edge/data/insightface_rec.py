"""Training faces as insightface packs them: `train.rec`, `train.idx` and `property`, read without MXNet.

Record 0 says where the images end and the people's own records begin; each of those says which images are a person's.
"""

import hashlib
from pathlib import Path

import numpy as np
from pydantic import Field

from kd2edge.data import Images, Ints, Preprocessing, Source
from kd2edge.data._aligned import Aligned, decoded, preprocessing
from kd2edge.data._recordio import Records
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

FILES = ("train.rec", "train.idx", "property")
MOST_PEOPLE = 1 << 24  # a float32 label counts no further


class InsightfaceRec(Source):
    """The split "train" only: who is asked for in other sets is a matter of their own files."""

    class Config(PluginConfig):
        """`path` is the folder of the three files; `mean` and `std` are in units of pixel / 255."""

        path: Path
        mean: float = 0.5
        std: float = Field(default=0.5, gt=0)

    def __init__(self, config: Config) -> None:
        missing = [name for name in FILES if not (config.path / name).is_file()]
        if missing:
            raise UserError(
                f"In {config.path} there is no {missing[0]}.", f"set data.path to a folder with {', '.join(FILES)}"
            )
        self.config = config
        self.people, self.size = _property(config.path / "property")

    def preprocessing(self) -> Preprocessing:
        return preprocessing(self.size, self.config.mean, self.config.std)

    def split(self, name: str) -> Aligned:
        """The images in the order of their numbers. Raises `UserError` for files that contradict one another."""
        if name != "train":
            raise UserError(f"A training set has no split {name!r}.", "splits: train")
        records = Records(self.config.path / "train.rec")
        keys = _image_keys(records)
        labels = _people(records, keys, self.people)
        return Aligned(
            lambda i: self._pixels(records, int(keys[i])),
            labels,
            [str(number) for number in range(self.people)],
            self.size,
            _mark(records, labels),
        )

    def _pixels(self, records: Records, key: int) -> Images:
        return decoded(records.image(key), self.size, f"Record {key:,} of {records.path}")


def _property(path: Path) -> tuple[int, tuple[int, int]]:
    """The number of people, and height and width of every image."""
    parts = path.read_bytes()[:100].strip().split(b",")
    values = [int(part) if part.isdigit() and len(part) <= 9 else 0 for part in parts]
    if len(values) != 3 or min(values) < 1 or values[0] > MOST_PEOPLE or max(values[1:]) > 1 << 14:
        raise UserError(f"{path} does not say how many people there are and how large the images: 4038,112,112, say.")
    return values[0], (values[1], values[2])


def _image_keys(records: Records) -> Ints:
    """Where record 0 is a header, the images are those from 1 to before the number it names; else all are images."""
    if records.keys[0] != 0:
        return records.keys
    values = records.values(0)
    if len(values) == 1:
        return records.keys
    end = values[0]
    keys = records.keys[(records.keys >= 1) & (records.keys < end)]
    if not end.is_integer() or not len(keys) or len(keys) != end - 1:
        raise records.damaged(0, f"it says that the images end before record {end:g}, and there are {len(keys):,}")
    last, after = int(keys[-1]), int(end)
    if not records.image(last) or (after in records.keys and records.image(after)):
        raise records.damaged(0, f"it says that record {last:,} is the last image, which it is not")
    return keys


def _people(records: Records, keys: Ints, people: int) -> Ints:
    values = records.labels(keys)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((values >= 0) & (values < people) & (np.floor(values) == values)))
    if len(wrong):
        value, key = values[wrong[0]], int(keys[wrong[0]])
        raise records.damaged(key, f"it is of person {value:g}, and there are 0 to {people - 1:,}")
    return values.astype(np.int64)


def _mark(records: Records, labels: Ints) -> str:
    """By people, places and the file's size and time of change: hashing hundreds of gigabytes would take an hour."""
    stat = records.path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    digest.update(labels.tobytes() + records.offsets.tobytes())
    return digest.hexdigest()
