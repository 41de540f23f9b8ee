"""Training faces as insightface packs them: `train.rec`, `train.idx` and `property`, read without MXNet.

Record 0 says where the images end and the people's own records begin and end; each of those says which images are a
person's. Without record 0, as MXNet's `im2rec` writes, every record is an image.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from kd2edge.data import Images, Ints, Preprocessing, Source
from kd2edge.data._aligned import Aligned, decoded, preprocessing
from kd2edge.data._recordio import Records
from kd2edge.errors import UserError
from kd2edge.shelves import PluginConfig

FILES = ("train.rec", "train.idx", "property")
EXACT = 1 << 24  # a float32 label counts no further
LONGEST_SIDE = 1 << 11  # pixels
STRANGERS = 1 << 20  # people that a set may have however few its images are: 75 MB of names


class InsightfaceRec(Source):
    """The split "train" only: who is asked for in other sets is a matter of their own files."""

    personal = True

    class Config(PluginConfig):
        """`path` is the folder of the three files; `mean` and `std` are in units of pixel / 255."""

        path: Path
        mean: float = 0.5
        std: float = Field(default=0.5, gt=0)

    def __init__(self, config: Config) -> None:
        missing = [name for name in FILES if not (config.path / name).is_file()]
        if missing:
            raise UserError(
                f"In {config.path} there is no {missing[0]}.",
                f"it needs {', '.join(FILES)}; property is one line: people,height,width, as 4038,112,112",
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
        self._refuse_more_people(len(keys))
        labels = _people(records, keys, self.people)
        _agree(records, keys, labels)
        return Aligned(
            partial(_pixels, records, records.places(keys), self.size),
            labels,
            [str(number) for number in range(self.people)],
            self.size,
            _mark(records, labels),
        )

    def _refuse_more_people(self, images: int) -> None:
        """A few bytes of `property` must not take a gigabyte for names."""
        if self.people > max(images, STRANGERS):
            path = self.config.path / "property"
            raise UserError(f"{path} says {self.people:,} people, of {images:,} images.", "take the file anew")


def _pixels(records: Records, places: Ints, size: tuple[int, int], position: int) -> Images:
    place = places[position]
    return decoded(records.image_at(place), size, lambda: f"Record {records.keys[place]:,} of {records.path}")


def _property(path: Path) -> tuple[int, tuple[int, int]]:
    """The number of people, and height and width of every image."""
    parts = path.read_bytes()[:100].strip().split(b",")
    values = [int(part) if part.isdigit() and len(part) <= 9 else 0 for part in parts]
    if len(values) != 3 or min(values) < 1 or values[0] > EXACT or max(values[1:]) > LONGEST_SIDE:
        raise UserError(
            f"{path} does not say how many people there are and how large the images.",
            f"it is one line: people,height,width, as 4038,112,112; no side over {LONGEST_SIDE:,}",
        )
    return values[0], (values[1], values[2])


def _image_keys(records: Records) -> Ints:
    """Where record 0 is a header, the images are those from 1 to before the number it names; else all are images."""
    if records.keys[0] != 0:
        return records.keys
    values = records.values(0)
    if len(values) == 1:
        return records.keys
    end = _end(records, values[0])
    keys = records.keys[(records.keys >= 1) & (records.keys < end)]
    if not end.is_integer() or not len(keys) or len(keys) != end - 1:
        raise records.damaged(0, f"it says that the images end before record {end:g}, and there are {len(keys):,}")
    last, after = int(keys[-1]), int(end)
    if not records.image(last) or (after in records.keys and records.image(after)):
        raise records.damaged(0, f"it says that record {last:,} is the last image, which it is not")
    return keys


def _end(records: Records, said: float) -> float:
    """Beyond 2^24 a float32 counts by twos or fours: there it is the first record nearby that is no image."""
    if not EXACT <= said < 1 << 40:
        return said
    step = int(np.spacing(np.float32(said)))
    near = range(int(said) - step, int(said) + step + 1)
    return float(next((key for key in near if key in records.keys and not records.image(key)), said))


def _people(records: Records, keys: Ints, people: int) -> Ints:
    values = records.labels(keys)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((values >= 0) & (values < people) & (np.floor(values) == values)))
    if len(wrong):
        value, key = values[wrong[0]], int(keys[wrong[0]])
        raise records.damaged(key, f"it is of person {value:g}, and there are 0 to {people - 1:,}")
    return values.astype(np.int64)


def _agree(records: Records, keys: Ints, labels: Ints) -> None:
    """Raise `UserError` where a person's own record and the labels of their images contradict each other.

    A label whose bit was flipped may name another person, and nothing else tells. Where more than one in a hundred
    contradict, the images were put into another order since, and the people's records say nothing.
    """
    people, ranges = _ranges(records, keys)
    changes = np.concatenate([[0], np.cumsum(labels[1:] != labels[:-1])])
    wrong = np.flatnonzero(changes[ranges[:, 1] - 2] != changes[ranges[:, 0] - 1])
    if 0 < len(wrong) <= 1 + len(people) // 100:
        begin, end = ranges[wrong[0]]
        theirs = labels[begin - 1 : end - 1]
        values, counts = np.unique(theirs, return_counts=True)
        elsewhere = np.bincount(labels)[values] - counts  # who has images of their own is more likely the wrong name
        odd = begin + int(np.flatnonzero(theirs == values[np.lexsort((counts, -elsewhere))[0]])[0])
        why = f"it is of person {labels[odd - 1]:,}, but record {people[wrong[0]]:,} says that the images from"
        raise records.damaged(odd, f"{why} {begin:,} to {end - 1:,} are of one")


def _ranges(records: Records, keys: Ints) -> tuple[Ints, Ints]:
    """The numbers of the people's own records, and their images int64 [P, 2]: the first, and one past the last."""
    found = []
    if records.keys[0] == 0 and keys[0] == 1:
        end = records.values(0)[1]
        people = records.keys[(records.keys > keys[-1]) & (records.keys < end)]
        for key in people.tolist():
            begin, end = (*records.values(key), 0.0)[:2]
            if 1 <= begin < end <= min(keys[-1] + 1, EXACT) and begin.is_integer() and end.is_integer():
                found.append((key, int(begin), int(end)))
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1:]


def _mark(records: Records, labels: Ints) -> str:
    """By people, places and the file's size and time of change: hashing hundreds of gigabytes would take an hour."""
    stat = records.path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    digest.update(labels.tobytes() + records.offsets.tobytes())
    return digest.hexdigest()
