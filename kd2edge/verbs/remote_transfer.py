"""Files to and from a far machine: a dropped connection is taken up again at the byte where it broke.

What arrives, on either side, is believed by its sha256 alone.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from kd2edge.edge import exchange
from kd2edge.edge.kit import File, file_of
from kd2edge.errors import UserError
from kd2edge.files import disk_fault
from kd2edge.progress import Progress
from kd2edge.verbs.remote_address import Address
from kd2edge.verbs.remote_ssh import Lost, Talk

PAUSES = (1, 2, 4, 8, 16, 32)  # seconds before each further try
BLOCK = 1 << 20
TRIES = 30  # in all, however often the far side answered in between
T = TypeVar("T")


def persist(work: Callable[[], T], address: Address, progress: Progress, again: str) -> T:
    """Do `work`, and again where the connection is lost. Raises `UserError` when it is lost too often in a row."""
    pauses = iter(PAUSES)
    for left in reversed(range(TRIES)):
        try:
            return work()
        except Lost as lost:
            pauses = iter(PAUSES) if lost.heard else pauses
            pause = next(pauses, None)
            if pause is None or not left:
                raise UserError(
                    f"The connection to {address.shown} is lost: {lost}.", f"the same command goes on: {again}"
                ) from None
            progress.say(f"The connection to {address.shown} was lost ({lost}); next try in {pause} s.")
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


class Bar:
    """Progress in MiB, of bytes."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._bytes, self._told, self._total = progress, 0, 0, total // BLOCK + 1
        progress.start(what, self._total)

    def add(self, count: int, name: str) -> None:
        self._bytes += count
        steps = self._bytes // BLOCK - self._told
        self._told += steps
        self._progress.advance(steps, now=name.rpartition("/")[2])

    def finish(self) -> None:
        self._progress.advance(self._total - self._told, now="done")


def push(address: Address, folder: str, files: Mapping[str, Path], progress: Progress) -> int:
    """Bring files, by name, into a folder of the far side, and return how many bytes went over the line.

    Raises `Lost`, and `UserError` for a full disk or a file that arrives as another every time.
    """
    listed = [(name, file_of(path)) for name, path in files.items()]
    request = {"do": "take", "folder": folder, "files": [[name, file.bytes, file.sha256] for name, file in listed]}
    sent = 0
    with Talk(address, exchange, request) as talk:
        have = talk.answer().get("have")
        if not isinstance(have, list) or len(have) != len(listed):
            raise UserError(f"{address.shown} does not say what it has.")
        bar = Bar(progress, "send", sum(file.bytes for _, file in listed))
        for index, (name, file) in enumerate(listed):
            start = file.bytes
            if have[index] != [file.bytes, file.sha256]:
                start = _agreed(files[name], have[index], file.bytes)
                talk.write(json.dumps({"index": index, "from": start}).encode() + b"\n")
                _send(talk, files[name], start, lambda count, name=name: bar.add(count, name))  # type: ignore[misc]
                sent += file.bytes - start
                if talk.answer() != {"got": index, "right": True}:
                    raise UserError(f"{name} did not arrive on {address.shown} as it was sent.", "try again")
            bar.add(start, name)
        bar.finish()
    return sent


def _agreed(path: Path, have: object, size: int) -> int:
    """From which byte on a file has to be sent: what lies there already must be its beginning."""
    match have:
        case [int(count), str(digest)] if 0 < count <= size and _prefix(path, count) == digest:
            return count
    return 0


def _prefix(path: Path, count: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while count and (block := file.read(min(count, BLOCK))):
            digest.update(block)
            count -= len(block)
    return digest.hexdigest()


def _send(talk: Talk, path: Path, start: int, told: Callable[[int], None]) -> None:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            talk.write(block)
            told(len(block))


def fetch(address: Address, folder: str, files: Mapping[str, File], to: Path, progress: Progress) -> None:
    """Bring files, by name, from a folder of the far side. What is in `to` already, whole or in part, is not sent.

    Raises `Lost`, and `UserError` for a file that is not what it has to be.
    """
    wanted = {name: file for name, file in files.items() if not _is(to / name, file)}
    if not wanted:
        return
    starts = {name: _kept(to / f"{name}.part", file.bytes) for name, file in wanted.items()}
    bar = Bar(progress, "fetch", sum(file.bytes for file in wanted.values()))
    with Talk(address, exchange, {"do": "give", "folder": folder, "files": list(starts.items())}) as talk:
        for name, file in wanted.items():
            left = file.bytes - starts[name]
            if talk.answer() != {"bytes": left}:
                raise UserError(f"{name} on {address.shown} has not the size that it has to have.")
            _receive(talk, to / f"{name}.part", left)
            if not _is(to / f"{name}.part", file):
                (to / f"{name}.part").unlink()
                raise UserError(f"{name} from {address.shown} is not what it has to be: the sha256 differs.")
            _named(to / f"{name}.part", to / name)
            bar.add(file.bytes, name)
        bar.finish()


def fetch_small(address: Address, folder: str, name: str, most: int) -> bytes:
    """The content of a file of the far side. Raises `Lost`, and `UserError` where it is missing or larger."""
    with Talk(address, exchange, {"do": "give", "folder": folder, "files": [[name, 0]]}) as talk:
        left = talk.answer().get("bytes")
        if not isinstance(left, int) or not 0 <= left <= most:
            raise UserError(f"{name} on {address.shown} is too large.")
        parts = []
        while left > 0:
            parts.append(talk.read(left))
            left -= len(parts[-1])
    return b"".join(parts)


def _receive(talk: Talk, part: Path, left: int) -> None:
    """Append what comes; what a lost connection leaves stays there for the next try."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab", buffering=0) as file:
            while left:
                block = talk.read(left)
                file.write(block)
                left -= len(block)
    except OSError as error:
        raise disk_fault(error, part) from error


def _named(part: Path, path: Path) -> None:
    try:
        part.replace(path)
    except OSError as error:  # a folder, since another name that was told lies in it
        raise disk_fault(error, path) from error


def _is(path: Path, file: File) -> bool:
    return path.is_file() and not path.is_symlink() and file_of(path) == file


def _kept(part: Path, size: int) -> int:
    """How much of a file a lost connection has left; a part as long as the whole, yet not it, is thrown away."""
    found = part.stat().st_size if part.is_file() else 0
    if found >= size:
        part.unlink(missing_ok=True)
        return 0
    return found
