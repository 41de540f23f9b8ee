"""The wheelhouse: the packages that the far side's work needs, for its machine and its Python, fetched here by pip.

Only wheels, so that nothing is compiled and nothing of theirs runs while they are fetched. What a wheel cannot bring
(TensorRT of JetPack, pycuda, which is compiled on the board) the far side has itself, or does without.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kd2edge.edge import exchange
from kd2edge.errors import UserError
from kd2edge.schema import Target
from kd2edge.verbs.remote_ssh import printable

BASE = ("numpy", "pillow", "pydantic", "typing-extensions", "packaging", "cryptography")
ALONE = ("onnxruntime",)  # its own requirements are for its tools, not for running a model
OLDEST_GLIBC = 17  # of a manylinux that is still made
LEGACY = {17: "2014", 12: "2010", 5: "1"}  # glibc 2.N to the older name of its platform
UNREACHED = ("connection broken by", "ConnectionError", "NewConnectionError", "Temporary failure", "Could not fetch")


@dataclass(frozen=True)
class Place:
    """A machine as wheels know it: `machine` of uname, Python 3.`minor`, glibc 2.`glibc`."""

    machine: str
    minor: int
    glibc: int

    @property
    def house(self) -> str:
        """The name of its folder in a kit, which `start.py` looks for."""
        return f"cp3{self.minor}-{self.machine}"


JETPACK_6, JETPACK_7 = Place("aarch64", 10, 35), Place("aarch64", 12, 39)


def places_of(target: Target) -> tuple[Place, ...]:
    """Where a kit may be carried that nobody asked a machine for: the Pythons of JetPack, those of a PC, and ours."""
    boards = (JETPACK_6, JETPACK_7)
    if target.board:
        return boards
    found = {place.house: place for place in (here(), Place("x86_64", 10, 35), Place("x86_64", 12, 39), *boards)}
    return tuple(found.values())


def here() -> Place:
    """This machine, with this Python."""
    glibc = exchange.libc() or [2, OLDEST_GLIBC]
    return Place(platform.machine(), sys.version_info.minor, glibc[1])


def place_at(found: dict[str, object], shown: str) -> Place:
    """The place that a far side says it is. Raises `UserError` where no wheels fit."""
    match found:
        case {"machine": str(machine), "python": [3, int(minor)], "libc": [2, int(glibc)]}:
            return Place(machine, minor, glibc)
    raise UserError(f"{shown} has no glibc, which the packages' wheels are made for.", "a board with Ubuntu or Debian")


def needed(target: Target) -> tuple[str, ...]:
    """The packages for a target's back end; the binding of JetPack 6's TensorRT is compiled for NumPy 1 alone."""
    if target.backend == "onnxruntime":
        return BASE + ALONE
    if any(release.startswith("6") for release in target.jetpack):
        return ("numpy>=1.26,<2", *BASE[1:], "onnx", "cuda-bindings>=12.6,<13", "nvidia-ml-py")
    return (*BASE, "onnx", "cuda-bindings>=12.6", "nvidia-ml-py")


def wheels(target: Target, place: Place, cache: Path) -> list[Path]:
    """The wheels for a place, those of the versions that are installed here if there are such.

    They are fetched once and kept in `cache`. Raises `UserError` where the registry does not answer, or has none.
    """
    packages = needed(target)
    pinned = tuple(f"{name}=={version}" if version else name for name, version in map(_here, packages))
    name = hashlib.sha256(json.dumps([pinned, str(place)]).encode()).hexdigest()[:16]
    folder = cache / "wheels" / f"{place.house}-{name}"
    if not folder.is_dir():
        _fetch(pinned, packages, place, folder)
    return sorted(folder.glob("*.whl"))


def _here(package: str) -> tuple[str, str | None]:
    """Numbers are compared best where both sides compute them with the same versions."""
    if not re.fullmatch(r"[\w-]+", package):
        return package, None
    try:
        return package, metadata.version(package)
    except metadata.PackageNotFoundError:
        return package, None


def _fetch(pinned: tuple[str, ...], packages: tuple[str, ...], place: Place, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        fault = _download(pinned, place, part)
        if fault is not None:
            fault = _download(packages, place, part)
        if fault is not None:
            raise fault
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(packages: tuple[str, ...], place: Place, folder: Path) -> UserError | None:
    """Fetch packages with what they require into a folder that is emptied before, or say why it cannot be done."""
    for path in folder.iterdir():
        path.unlink()
    alone = [one for one in packages if one.partition("=")[0] in ALONE]
    fault = _pip([one for one in packages if one not in alone], place, folder)
    return fault or (_pip(["--no-deps", *alone], place, folder) if alone else None)


def _pip(words: list[str], place: Place, folder: Path) -> UserError | None:
    """Fetch wheels. Markers of requirements are judged by pip as of this machine, whose system is the same."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", f"3.{place.minor}"]
    for tag in _platforms(place):
        command += ["--platform", tag]
    done = subprocess.run([*command, "--dest", str(folder), *words], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = [printable(line) for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
    if "No module named pip" in done.stderr:
        return UserError("The packages for the far side are fetched by pip, which is not here.", "install pip")
    if any(word in done.stderr for word in UNREACHED):
        return UserError("The package registry does not answer.", "the wheels are fetched once; try where it does")
    return UserError(f"There are no wheels for {place.house}: {said[-1].removeprefix('ERROR: ')}")


def _platforms(place: Place) -> list[str]:
    """Every manylinux that the place's glibc fulfils, the newest first."""
    modern = [f"manylinux_2_{minor}_{place.machine}" for minor in range(place.glibc, 16, -1)]
    older = [f"manylinux{name}_{place.machine}" for minor, name in LEGACY.items() if minor <= place.glibc]
    return [*modern, *(older if place.machine == "x86_64" else older[:1])]
