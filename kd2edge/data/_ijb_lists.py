"""The lists of an IJB release as insightface packs it: text, one record a line, up to sixteen million of them.

Files are read in blocks of whole lines, so that memory beyond the result is bounded. Lists of pairs are parsed by
arithmetic on bytes, all numbers of a block at once; a block that is not as regular as that wants is read line by line.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

BLOCK = 1 << 22  # bytes: what is derived from a block stays in a processor's cache
LONGEST = 1 << 16  # bytes of a line
DIGITS = 18  # of a number: any that many fit into int64
SPACE, TAB, NEWLINE, ZERO, NINE = 32, 9, 10, 48, 57


def read_pairs(path: Path) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """`template template 0|1` a line: identifiers int64 [P, 2], and bool [P], whether they are of one subject.

    Raises `UserError`, naming the line, for anything else.
    """
    pairs, same = [np.empty((0, 2), np.int64)], [np.empty(0, np.bool_)]
    for first, block in _blocks(path):
        rows = _fast(block)
        if rows is None:
            rows = np.array([_integers(path, n, line.split(), 3) for n, line in _lines(first, block)], np.int64)
        wrong = np.flatnonzero(rows[:, 2] > 1)
        if len(wrong):
            _refuse(path, first + int(wrong[0]), f"says {rows[wrong[0], 2]} where 0 or 1 should be")
        pairs.append(rows[:, :2])
        same.append(rows[:, 2] == 1)
    return np.concatenate(pairs), np.concatenate(same)


def read_media(path: Path) -> tuple[list[str], Ints]:
    """`name template medium` a line: the names, and int64 [N, 2]. Raises `UserError`, naming the line."""
    names: list[str] = []
    rows: list[list[int]] = []
    for first, block in _blocks(path):
        for number, line in _lines(first, block):
            fields = line.split()
            names.append(_name(path, number, fields[:1]))
            rows.append(_integers(path, number, fields[1:], 2))
    return names, np.array(rows, np.int64).reshape(-1, 2)


def read_landmarks(path: Path) -> tuple[list[str], Floats, Floats]:
    """`name x1 y1 ... x5 y5 score` a line: the names, landmarks float32 [N, 5, 2] in pixels, scores float32 [N].

    Raises `UserError`, naming the line, also for numbers that are not finite.
    """
    names: list[str] = []
    rows = [np.empty((0, 11), np.float32)]
    for first, block in _blocks(path):
        found = []
        for number, line in _lines(first, block):
            fields = line.split()
            names.append(_name(path, number, fields[:1]))
            found.append(_floats(path, number, fields[1:]))
        with np.errstate(over="ignore"):  # what is infinite is refused below
            rows.append(np.array(found).astype(np.float32))
        wrong = np.flatnonzero(~np.isfinite(rows[-1]).all(axis=1))
        if len(wrong):
            _refuse(path, first + int(wrong[0]), "has a number that is not finite")
    values = np.concatenate(rows)
    return names, values[:, :10].reshape(-1, 5, 2), values[:, 10]


def read_subjects(path: Path) -> Ints:
    """`TEMPLATE_ID,SUBJECT_ID,...` a line below a header, one an image: int64 [T, 2], each template once, ascending.

    Raises `UserError`, naming the line, also where a template has two subjects.
    """
    rows: list[list[int]] = []
    for first, block in _blocks(path):
        for number, line in _lines(first, block):
            if number > 1:
                rows.append(_integers(path, number, line.split(b",", 2)[:2], 2))
    listed = np.array(rows, np.int64).reshape(-1, 2)
    templates, image, place = np.unique(listed[:, 0], return_index=True, return_inverse=True)
    subjects = listed[image, 1]
    wrong = np.flatnonzero(subjects[place] != listed[:, 1])
    if len(wrong):
        _refuse(path, 2 + int(wrong[0]), f"gives template {listed[wrong[0], 0]} a second subject")
    return np.stack([templates, subjects], axis=1)


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines, at least one, each ended by a newline, and the number of the first."""
    number, rest = 1, b""
    try:
        with path.open("rb") as file:
            while read := file.read(BLOCK):
                block, newline, rest = (rest + read).replace(b"\r\n", b"\n").rpartition(b"\n")
                if len(rest) > LONGEST:
                    _refuse(path, number + block.count(b"\n") + len(newline), f"is longer than {LONGEST} bytes")
                if newline:
                    yield number, block + newline
                    number += block.count(b"\n") + 1
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if rest:
        yield number, rest + b"\n"


def _lines(first: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    return enumerate(block[:-1].split(b"\n"), first)


def _fast(block: bytes) -> Ints | None:
    """The numbers of a block, int64 [lines, 3]; None unless each line is three, one space or tab apart."""
    text = np.frombuffer(block, np.uint8)
    found = np.flatnonzero(text < ZERO)
    if text.max() > NINE or len(found) % 3:
        return None
    kinds, ends = text[found].reshape(-1, 3), found.reshape(-1, 3)
    between = kinds[:, :2]
    if not ((kinds[:, 2] == NEWLINE).all() and ((between == SPACE) | (between == TAB)).all()):
        return None
    lengths = np.diff(found, prepend=-1).reshape(-1, 3) - 1
    if lengths.min() < 1 or lengths.max() > DIGITS:
        return None
    rows = np.zeros(ends.shape, np.int64)
    for column in range(3):
        length, end = lengths[:, column], ends[:, column]
        for place in range(int(length.max())):
            digit = text[np.maximum(end - 1 - place, 0)].astype(np.int64) - ZERO
            rows[:, column] += np.where(length > place, digit, 0) * 10**place
    return rows


def _integers(path: Path, number: int, fields: list[bytes], count: int) -> list[int]:
    if len(fields) != count:
        _refuse(path, number, f"has {len(fields)} numbers, not {count}")
    for field in fields:
        if not field.isdigit() or len(field) > DIGITS:
            _refuse(path, number, f"has {_shown(field)} where a whole number should be")
    return [int(field) for field in fields]


def _floats(path: Path, number: int, fields: list[bytes]) -> list[float]:
    if len(fields) != 11:
        _refuse(path, number, f"has {len(fields)} numbers behind its name, not 11")
    try:
        return [float(field) for field in fields]
    except ValueError:
        _refuse(path, number, "has something else than numbers behind its name")


def _name(path: Path, number: int, fields: list[bytes]) -> str:
    """The first field: a file name beneath the folder of crops, and nowhere else."""
    name = b"".join(fields[:1])
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or text.startswith("/") or not text or ".." in text.split("/"):
        _refuse(path, number, f"begins with {_shown(name)}, which is no file name")
    return text


def _shown(field: bytes) -> str:
    return repr(field[:20].decode("ascii", "replace"))


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise UserError(f"Line {number:,} of {path} {what}.", "take the file anew")
