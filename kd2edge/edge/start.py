"""The first program of a kit on the far side: it verifies every file before any of them is used, then starts the work.

The standard library alone, and run from the kit's folder or straight from the host (see `verbs.remote`). What it
unpacks, and Python's own cache, lie outside the kit: a folder that came on a stick brings no code of its own.
"""

import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
import zipfile
from typing import Any

KIT, RESULTS = "kit.json", "results"
OLDEST = (3, 10)
BLOCK = 1 << 20


def main() -> None:
    """`python3 -I start.py SHA256 [ROOM]`, or the same as a JSON line on stdin; ends as the work itself."""
    tied = len(sys.argv) < 2
    if tied:  # straight from the host: the work lasts as long as the connection
        asked = json.loads(sys.stdin.buffer.readline())
    else:
        room = sys.argv[2] if len(sys.argv) > 2 else ""
        asked = {"kit": os.path.dirname(os.path.abspath(__file__)), "sha256": sys.argv[1], "room": room}
    try:
        kit, room = (os.path.abspath(os.path.expanduser(asked[name] or default_room())) for name in ("kit", "room"))
        files = verified(kit, asked["sha256"])
        start(kit, asked["sha256"], room, files, tied)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        told = {"fault": str(error), "hint": "copy the kit again, or make it again"}
        print(json.dumps(told) if tied else f"{told['fault']}\n  hint: {told['hint']}", flush=True)
        raise SystemExit(2) from None


def default_room() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kd2edge")


def verified(kit: str, digest: str) -> "dict[str, Any]":
    """The files of a kit by name. Raises `ValueError` unless they, and no others, are there as its maker left them."""
    path = os.path.join(kit, KIT)
    if not os.path.isfile(path):
        raise ValueError(f"There is no kit in {kit}.")
    with open(path, "rb") as file:
        text = file.read()
    if hashlib.sha256(text).hexdigest() != digest:
        raise ValueError(f"{path} is not the one that was asked for: its sha256 differs.")
    files: dict[str, Any] = json.loads(text)["files"]
    for name, known in files.items():
        _verify(kit, name, known)
    strange = sorted(set(_found(kit)) - set(files) - {KIT})
    if strange:
        raise ValueError(f"The kit in {kit} holds a file that its maker did not put there: {strange[0]}.")
    return files


def _verify(kit: str, name: str, known: "dict[str, Any]") -> None:
    if not name or any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise ValueError(f"The kit names a file outside its folder: {name!r}.")
    path = os.path.join(kit, *name.split("/"))
    try:
        regular = stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        raise ValueError(f"The kit lacks the file {name}.") from None
    if not regular or os.path.getsize(path) != known["bytes"] or _sha256(path) != known["sha256"]:
        raise ValueError(f"The file {name} of the kit was changed or damaged.")


def _found(kit: str) -> "list[str]":
    """What lies in the kit, links to folders among it; results do not belong to it."""
    found = []
    for root, folders, names in os.walk(kit):
        inside = os.path.relpath(root, kit).replace(os.sep, "/")
        if inside == ".":
            folders[:] = [name for name in folders if name != RESULTS]
        names += [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [name if inside == "." else f"{inside}/{name}" for name in names]
    return found


def start(kit: str, digest: str, room: str, files: "dict[str, Any]", tied: bool) -> None:
    """Put the wheels in their place, and become the work."""
    here = f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"
    houses = sorted({name.split("/")[1] for name in files if name.startswith("wheels/")})
    if sys.version_info[:2] < OLDEST or here not in houses:
        needed = f"Python {OLDEST[0]}.{OLDEST[1]} or newer" if sys.version_info[:2] < OLDEST else " or ".join(houses)
        raise ValueError(f"This is {here}, and the kit is for {needed}.")
    if os.pathsep in kit + room:
        raise ValueError(f"Python finds nothing in a folder with {os.pathsep!r} in its path: {kit}, {room}.")
    work = os.path.join(room, "work", digest)
    os.makedirs(work, mode=0o700, exist_ok=True)
    site = _unpacked(kit, [name for name in files if name.startswith(f"wheels/{here}/")], files, room)
    path = os.pathsep.join([os.path.join(kit, "code"), site])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": os.path.join(work, "pyc")}
    os.chdir(work)  # `-m` looks into the current folder first
    arguments = [sys.executable, "-m", "kd2edge.edge.far", kit, digest, work, *(["--tied"] if tied else [])]
    sys.stdout.flush()
    os.execve(sys.executable, arguments, environment)


def _unpacked(kit: str, wheels: "list[str]", files: "dict[str, Any]", room: str) -> str:
    """The folder with the content of the wheels, made once; a wheel is a zip file whose root goes on the path."""
    name = hashlib.sha256("".join(sorted(files[wheel]["sha256"] for wheel in wheels)).encode()).hexdigest()
    site = os.path.join(room, "sites", name)
    if os.path.isdir(site):
        return site
    os.makedirs(os.path.dirname(site), mode=0o700, exist_ok=True)
    part = tempfile.mkdtemp(prefix=".part-", dir=os.path.dirname(site))
    try:
        for wheel in wheels:
            with zipfile.ZipFile(os.path.join(kit, *wheel.split("/"))) as archive:
                archive.extractall(part)
        os.replace(part, site)
    except OSError:
        if not os.path.isdir(site):  # else another start was quicker
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return site


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            block = file.read(BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)


if __name__ == "__main__":
    main()
