"""Taking and giving files on a far machine: the program that the host sends over ssh, so the standard library alone.

One request on stdin, a JSON line; answers are JSON lines on stdout. A file arrives in NAME.part and gets its name once
its sha256 is right: what a dropped connection leaves is gone on with, never taken for whole.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
from typing import Any

BLOCK = 1 << 20
STDIN: Any = getattr(sys.stdin, "buffer", None)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def main() -> None:
    """Do what the request on stdin asks for; a fault of the disk is the last line of the answer."""
    request = json.loads(STDIN.readline())
    folder = os.path.expanduser(request.get("folder", ""))
    try:
        if request["do"] == "hello":
            tell(python=list(sys.version_info[:2]), machine=platform.machine(), libc=libc())
        elif request["do"] == "take":
            take(folder, request["files"])
        elif request["do"] == "give":
            give(folder, request["files"])
        elif request["do"] == "forget":
            forget(folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        tell(fault=error.strerror or str(error), path=str(error.filename or folder), full=full)


def libc() -> "list[int] | None":
    """The version of glibc; None where the C library is another."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return [int(part) for part in version.split(".")[:2]] if name == "glibc" else None


def take(folder: str, files: "list[list[Any]]") -> None:
    """Receive files, each a name, its size and its sha256; first tell of each how much of it is here already.

    `folder` lies among others of its kind.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _borrow(folder, files)
    places = [os.path.join(folder, *name.split("/")) for name, _, _ in files]
    tell(have=[_have(place, size, digest) for place, (_, size, digest) in zip(places, files, strict=True)])
    while True:
        line = STDIN.readline()
        asked = json.loads(line) if line.endswith(b"\n") else {}
        if "index" not in asked:
            return
        index = asked["index"]
        _, size, digest = files[index]
        if not _receive(places[index] + ".part", asked["from"], size):
            return
        right = sha256(places[index] + ".part") == digest
        if right:
            os.replace(places[index] + ".part", places[index])
        else:
            os.unlink(places[index] + ".part")
        tell(got=index, right=right)


def give(folder: str, files: "list[list[Any]]") -> None:
    """Send files, each a name and the byte to begin at: a line with the number of bytes, then these."""
    for name, start in files:
        with os.fdopen(_open(os.path.join(folder, *name.split("/")), os.O_RDONLY), "rb") as file:
            left = max(0, os.fstat(file.fileno()).st_size - start)
            file.seek(start)
            tell(bytes=left)
            while left:
                block = file.read(min(left, BLOCK))
                if not block:  # it shrank: the host misses bytes, and says so
                    return
                sys.stdout.buffer.write(block)
                left -= len(block)
            sys.stdout.buffer.flush()


def forget(folder: str) -> None:
    """Remove what a kit's work has kept, now that its results are where they belong; no other folder."""
    room, name = os.path.split(folder)
    if os.path.basename(room) == "work" and re.fullmatch("[0-9a-f]{64}", name):
        shutil.rmtree(folder, ignore_errors=True)
    tell(forgotten=not os.path.exists(folder))


def _borrow(folder: str, files: "list[list[Any]]") -> None:
    """Take what an earlier kit beside this one has under the same name: wheels and code seldom change."""
    room = os.path.dirname(os.path.abspath(folder))
    others = [os.path.join(room, name) for name in os.listdir(room) if os.path.join(room, name) != folder]
    for name, size, digest in files:
        place = os.path.join(folder, *name.split("/"))
        for other in others if not os.path.lexists(place) else ():
            found = os.path.join(other, *name.split("/"))
            if _is_file(found) and os.path.getsize(found) == size and sha256(found) == digest:
                os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
                with contextlib.suppress(OSError):  # a file system without links: it is sent
                    os.link(found, place)
                break


def _have(place: str, size: int, digest: str) -> "list[Any]":
    """[size, sha256] of the file as it is here, whole or in part; a whole one of another content counts for nothing."""
    if _is_file(place) and os.path.getsize(place) == size and sha256(place) == digest:
        return [size, digest]
    part = place + ".part"
    return [os.path.getsize(part), sha256(part)] if _is_file(part) else [0, ""]


def _receive(part: str, start: int, size: int) -> bool:
    """Write what comes on stdin from the byte `start` on; False where the connection ends first."""
    os.makedirs(os.path.dirname(part), mode=0o700, exist_ok=True)
    with os.fdopen(_open(part, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
        file.truncate(start)
        file.seek(start)
        left = size - start
        while left:
            block = STDIN.read1(min(left, BLOCK))
            if not block:
                return False
            written = 0
            while written < len(block):
                written += file.write(block[written:])
            left -= len(block)
        os.fsync(file.fileno())
    return True


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | NO_LINK, 0o600)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
        while True:
            block = file.read(BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def tell(**answer: Any) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
