"""A split on its way to another machine: decoded once, here, so that both judge a model by the same pixels.

A folder of images.npy (uint8 [N, H, W, C]), columns.npz (labels, groups and the protocol's arrays) and words.json
(names, and what else is no array). Nothing of it is a pickle.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.data import Images, Ints, PairList, Protocol, Source, Split, Templates
from kd2edge.edge.decoded import decode
from kd2edge.errors import UserError, first_line
from kd2edge.files import write_atomic
from kd2edge.schema import Preprocessing

IMAGES, COLUMNS, WORDS = "images.npy", "columns.npz", "words.json"
PROTOCOLS: dict[str, type[PairList] | type[Templates]] = {"PairList": PairList, "Templates": Templates}


def write_split(split: Split, folder: Path) -> list[Path]:
    """Write a split into a folder, which is made. Raises `UserError` as `decode` does."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"labels": split.labels, **{f"groups/{key}": v for key, v in split.groups.items()}}
    words: dict[str, Any] = {"classes": list(split.classes), "protocol": None, "said": {}}
    if split.protocol is not None:
        words["protocol"] = type(split.protocol).__name__
        for field in dataclasses.fields(split.protocol):
            value = getattr(split.protocol, field.name)
            if isinstance(value, np.ndarray):
                columns[f"protocol/{field.name}"] = value
            elif isinstance(value, dict) and all(isinstance(one, np.ndarray) for one in value.values()):
                columns |= {f"protocol/{field.name}/{key}": one for key, one in value.items()}
            else:
                words["said"][field.name] = value
    decode(split, folder / IMAGES)
    write_atomic(folder / COLUMNS, lambda file: np.savez(file, **columns))
    write_atomic(folder / WORDS, json.dumps(words).encode())
    return [folder / name for name in (IMAGES, COLUMNS, WORDS)]


class Shards(Source):
    """The one split that lies in a folder, whatever it is called."""

    def __init__(self, config: Path) -> None:
        self.folder = config

    def split(self, name: str) -> Split:
        """Raises `UserError` where the folder does not hold a split."""
        try:
            return ShardedSplit(self.folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"The images in {self.folder} cannot be read: {first_line(error)}.") from error

    def preprocessing(self) -> Preprocessing:
        raise UserError("The models' manifests state how these images become their input.")


class Faces(Shards):
    """As `Shards`, of people."""

    personal = True


class ShardedSplit(Split):
    """Images are read from the file as they are asked for."""

    def __init__(self, folder: Path) -> None:
        words = json.loads((folder / WORDS).read_bytes())
        with np.load(folder / COLUMNS, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        self._images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        self.labels: Ints = columns["labels"]
        self.groups = _under("groups", columns)
        self.classes = words["classes"]
        self.protocol = _protocol(words, columns)

    def read(self, index: Ints) -> Images:
        return np.asarray(self._images[index])


def _protocol(words: dict[str, Any], columns: dict[str, Any]) -> Protocol | None:
    if words["protocol"] is None:
        return None
    kind: Any = PROTOCOLS[words["protocol"]]
    arrays = _under("protocol", columns)
    plain = {key: value for key, value in arrays.items() if "/" not in key}
    nested = {field.name: _under(field.name, arrays) for field in dataclasses.fields(kind)}
    made: Protocol = kind(**words["said"], **plain, **{key: value for key, value in nested.items() if value})
    return made


def _under(prefix: str, columns: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in columns.items() if name.startswith(f"{prefix}/")}
