"""What a bench has measured is kept until its report is written: one that was killed goes on where it stood.

A job that is done becomes a cell, a folder that is there whole or not at all. Its place says what was asked, its key
under what circumstances; a cell of another key, or one that a disk has damaged, is measured anew.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from kd2edge.edge import devices
from kd2edge.edge.worker import Answer
from kd2edge.errors import UserError
from kd2edge.files import disk_fault, sha256, write_atomic
from kd2edge.schema import Section

CELL, WORK, LOCK, IMAGES = "cell.json", "work", ".lock", "images.npy"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CIRCUMSTANCES = (
    *(*devices.IDENTITY, "os", "python", "governor", "max_mhz", "driver", "l4t", "power_mode"),
    *("gpu_details", "jetson_clocks"),
)
TRIES = 100  # to lock a folder that others remove meanwhile


class Cell(Section):
    """A job done: its answer, the sha256 of each file it wrote, when it was done, and in which sitting, from 1 up."""

    place: str
    key: str
    sitting: int
    at: str
    answer: Answer
    files: dict[str, str]


class Kept:
    """The cells in a folder. `sitting` counts the benches that left some; `used` are those that this one rests on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cells = [cell for path in self._cells() if (cell := _read(path))]
        self.earlier = len(cells)
        self.sitting = 1 + max((cell.sitting for cell in cells), default=0)
        self.used: list[Cell] = []
        self.removed = False
        device = devices.fingerprint()
        self.circumstances = {name: device.get(name) for name in CIRCUMSTANCES} | devices.versions()

    @property
    def sittings(self) -> int:
        """In how many sittings the cells that were used were measured."""
        return len({cell.sitting for cell in self.used})

    def key(self, **more: Any) -> str:
        """The key of what is measured here and now, and of what else (JSON) it depends on."""
        return digest(self.circumstances | more)

    def find(self, place: str, key: str) -> Cell | None:
        """The cell at a place, if it has that key and every file of it is as it was written."""
        folder = self.folder / place
        cell = _read(folder / CELL)
        if cell is None or (cell.place, cell.key) != (place, key):
            return None
        try:
            whole = all(sha256(folder / name) == known for name, known in cell.files.items())
        except UserError:
            return None
        return cell if whole else None

    def file(self, cell: Cell, name: Path) -> Path:
        """A file that the job of a cell wrote."""
        return self.folder / cell.place / name

    def work(self) -> Path:
        """An empty folder for a job to write into. Raises `UserError` if there can be none."""
        folder = self.folder / WORK
        try:
            _remove(folder)
            folder.mkdir(parents=True)
        except OSError as error:
            raise disk_fault(error, folder) from error
        return folder

    def keep(self, place: str, key: str, answer: Answer) -> Cell:
        """Make what lies in the work folder the cell at a place; one that was there gives way.

        Raises `UserError` when the disk is full.
        """
        work, folder = self.folder / WORK, self.folder / place
        files = {path.name: sha256(path) for path in sorted(work.iterdir())}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        cell = Cell(place=place, key=key, sitting=self.sitting, at=now, answer=answer, files=files)
        text = cell.model_dump_json()
        write_atomic(work / CELL, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode())
        try:
            _remove(folder)
            work.rename(folder)
        except OSError as error:
            raise disk_fault(error, folder) from error
        return cell

    def tidy(self) -> None:
        """Leave nothing but whole cells behind, and nothing at all if there are none."""
        if self.removed:  # what is there now is another bench's
            return
        whole = {path.parent for path in self._cells()}
        if not whole:
            self.remove()
            return
        for path in set(self.folder.iterdir()) - whole - {self.folder / LOCK}:
            with suppress(OSError):  # whatever ends this bench is what has to be told
                _remove(path)

    def remove(self) -> None:
        """Forget everything: the report is written. The lock goes last: who has it then finds nothing of this bench."""
        self.removed = True
        with suppress(OSError):
            for path in set(self.folder.iterdir()) - {self.folder / LOCK}:
                with suppress(OSError):
                    _remove(path)
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _cells(self) -> Iterator[Path]:
        return (path for path in self.folder.glob(f"*/{CELL}") if path.parent.name != WORK)


@contextmanager
def kept_in(folder: Path) -> Iterator[Kept]:
    """What is kept in a folder, which is made; afterwards whole cells are left in it, or it is gone.

    Raises `UserError` when another bench is in it, or it cannot be written.
    """
    with _lock(folder):
        kept = Kept(folder)
        try:
            yield kept
        finally:
            kept.tidy()


@contextmanager
def kept_for_now() -> Iterator[Kept]:
    """A folder of its own, for a bench that nobody will resume."""
    with tempfile.TemporaryDirectory(prefix="kd2edge-bench-") as folder:
        yield Kept(Path(folder))


def is_full(error: UserError) -> bool:
    """Whether it is the disk that an error tells of, and nothing that was measured."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL


def digest(said: Mapping[str, Any]) -> str:
    """The sha256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Cell | None:
    """A cell as it was written: a bit that was not makes it none."""
    try:
        known, _, text = path.read_bytes().partition(b"\n")
        return Cell.model_validate_json(text) if hashlib.sha256(text).hexdigest().encode() == known else None
    except (OSError, ValidationError):
        return None


def _remove(path: Path) -> None:
    """A folder or a file, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock(folder: Path) -> TextIO:
    """The open lock of a folder, which is made. A bench that is done removes both, maybe just before this one locks."""
    path = folder / LOCK
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            if left and isinstance(error, FileNotFoundError):
                continue
            raise disk_fault(error, path) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise UserError(f"Another bench is measuring for this report, in {folder}.", "wait for it") from None
        except FileNotFoundError:
            pass
        except OSError as error:  # a file system without locks
            file.close()
            raise disk_fault(error, path) from error
        file.close()
    raise UserError(f"{folder} is removed again and again.", "wait for the other bench")
