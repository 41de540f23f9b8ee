"""Atomic writes: a file is there whole or not at all, whatever dies in between."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from kd2edge.errors import UserError


def write_atomic(path: Path, write: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write `path` through a temporary file in its folder, fsync and rename.

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
        os.chmod(temporary, 0o644)
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
