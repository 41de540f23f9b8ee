"""The shards of a WebDataset: which files they are, and the samples that one holds."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import BinaryIO

from kd2edge.data._tar import Member, members
from kd2edge.data._tar_index import LARGEST, Index, index_of
from kd2edge.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")
LONGEST = {"cls": 32, "json": 1 << 20}  # bytes
TOGETHER = "a sample's files follow one another (tar --sort=name)"
DIGITS = 9  # of a label
MOST = 1 << 20  # shards
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def shards(root: Path, split: str, pattern: str | None) -> list[Path]:
    """The shards of a split: those of a pattern, in its order, or else those in its folder, by name.

    Raises `UserError` for a pattern that is none, names a shard that is not there, or is an address.
    """
    if pattern is None:
        return _globbed(root / split, "*.tar")
    if "://" in pattern or pattern.startswith("pipe:"):
        raise UserError(f"data.{split} is an address: {pattern}", "fetch the shards first: only files can be indexed")
    found: list[Path] = []
    for name in expanded(pattern):
        path = root / name
        starred = "*" in name
        found += _globbed(path.parent, path.name) if starred else [path]
        if not starred and not path.is_file():
            raise UserError(f"There is no shard {path}.", f"data.{split} names it")
    if not found or len(set(found)) < len(found):
        raise UserError(f"data.{split} names {'a shard twice' if found else 'no shards'}: {pattern}")
    return found


def _globbed(folder: Path, pattern: str) -> list[Path]:
    """The files of that form, by name; hidden ones are none, such as an index kept beside its shard."""
    if "**" in pattern:
        raise UserError(f"{pattern!r} is no pattern of shards.", "one * stands for any part of a name")
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))


def expanded(pattern: str) -> Iterator[str]:
    """`a-{00..02}.tar` and `{x,y}.tar` as their names, in order. Raises `UserError` for more than a million."""
    parts = BRACES.split(pattern)
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    count = math.prod(len(choice) for choice in choices)
    if not 0 < count <= MOST or {"{", "}"} & set("".join(parts[::2])):
        raise UserError(f"{pattern!r} is no pattern of shards.", "such as train-{000000..000146}.tar")
    return ("".join(chosen) for chosen in product(*choices))


def _choices(inside: str) -> Sequence[str]:
    found = RANGE.fullmatch(inside)
    if not found:
        return inside.split(",")
    first, last, digits = int(found[1]), int(found[2]), len(found[1])
    return [f"{number:0{digits}d}" for number in range(first, min(last, first + MOST) + 1)]


def index_shard(path: Path, label: str, file: BinaryIO, size: int) -> Index:
    """Image and label of each sample of a shard of so many bytes; `label` is "cls" or "json.FIELD".

    Raises `UserError`, naming shard and sample, for one without either, for a key that comes twice, and as `members`.
    """
    entries, seen = [], set()
    kind, _, field = label.partition(".")
    for key, files in _samples(members(file, 0, size, str(path)), path):
        what = f"The sample {key!r} of {path}"
        if key in seen:
            raise UserError(f"{what} comes twice.", f"each has a key of its own; {TOGETHER}")
        seen.add(key)
        images = [files[suffix] for suffix in IMAGES if suffix in files]
        if len(images) != 1 or images[0].size > LARGEST:
            raise UserError(
                f"{what} has {len(images)} images that can be read, not one.", f"{', '.join(IMAGES)}; {TOGETHER}"
            )
        if kind not in files or files[kind].size > LONGEST[kind]:
            raise UserError(f"{what} has no .{kind} with its label.", f"data.label says where; {TOGETHER}")
        file.seek(files[kind].offset)
        number = _label(file.read(files[kind].size), field, what)
        entries.append((images[0].offset, images[0].size, number))
    return index_of(entries, [])


def _samples(found: Iterator[Member], path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Keys, and each one's files by their suffix in small letters; files without a suffix are no sample's."""
    key, files = "", dict[str, Member]()
    for member in found:
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, dot, suffix = name.partition(".")
        if not stem or not dot:
            continue
        if folder + slash + stem != key:
            if files:
                yield key, files
            key, files = folder + slash + stem, {}
        if suffix.lower() in files:
            raise UserError(f"{path} holds {member.name!r} twice.", "make the shard anew with a key for each sample")
        files[suffix.lower()] = member
    if files:
        yield key, files


def _label(content: bytes, field: str, what: str) -> int:
    try:
        said = json.loads(content)[field] if field else content.decode("ascii").strip()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{what} does not say its label{f' as {field!r}' if field else ''}.") from None
    text = str(said) if type(said) in (int, str) else ""
    if not text.isdecimal() or not text.isascii() or len(text) > DIGITS:
        raise UserError(f"{what} is labelled {text[:40]!r}, which is no whole number from 0.", "classes are numbered")
    return int(text)
