"""Atomic writes: a file is there whole or not at all, whatever dies in between."""

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from kd2edge.errors import UserError, first_line


def write_atomic(path: Path, write: bytes | Callable[[BinaryIO], object], mode: int = 0o644) -> Path:
    """Write `path` through a temporary file in its folder, fsync and rename; until then nobody else may read it.

    `write` is the content, or a function that writes it to an open binary file. Raises `UserError` when the disk is
    full or the folder cannot be written; the old file, if any, is then untouched and nothing is left behind.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(write) if isinstance(write, bytes) else write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        raise disk_fault(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def append(path: Path, text: str) -> None:
    """Append text to a log, durably. Raises `UserError` when the disk is full."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_fault(error, path) from error


def disk_fault(error: OSError, path: Path) -> UserError:
    """The one sentence for an operating-system error met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk is full: {path} could not be written.", "free some space, then resume the run")
    return UserError(f"{path} could not be written: {error.strerror or error}.", "check the path and its permissions")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes. Raises `UserError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises FileNotFoundError where there is none, and `UserError` for one that is larger, is no regular file (a pipe
    would make us wait for ever) or cannot be read.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(most + 1) if stat.S_ISREG(found.st_mode) and found.st_size <= most else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if content is None or len(content) > most:
        why = f"is larger than {most:,} bytes" if stat.S_ISREG(found.st_mode) else "is no regular file"
        raise UserError(f"{path} {why} and is not read.")
    return content


def is_plain(name: str) -> bool:
    """Whether `name` can name a file of its own folder and be printed: no separator, no "..", no control character."""
    fits = 0 < len(name.encode("utf-8", "replace")) < 256
    return fits and name not in (".", "..") and not {"/", "\\"} & set(name) and name.isprintable()


def inside(folder: Path, name: str) -> Path:
    """The file `name`, relative, as it lies in `folder` once every link is followed; it need not exist.

    Raises `UserError` for a name that is absolute, climbs by "..", cannot be printed, or leads out by a link.
    """
    parts = name.split("/")
    if not all(part == "." or is_plain(part) for part in parts):
        raise UserError(f"{name!r} does not name a file within {folder}.", "only plain relative names are followed")
    try:
        found, root = (folder / name).resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise UserError(f"{folder / name} cannot be followed: {first_line(error)}.") from error
    if root not in found.parents:
        raise UserError(f"{name!r} leads out of {folder} by a link.", "put the file itself there")
    return found
