"""Making a kit (see `edge.kit`): models, images, our own code as far as the far side needs it, and a wheelhouse."""

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import kd2edge
from kd2edge.artifact import SUFFIX, Artifact
from kd2edge.data import Source
from kd2edge.edge import start
from kd2edge.edge.kit import KIT, PROBE, Data, Kit, Model, file_of, read_kit
from kd2edge.edge.leaving import save
from kd2edge.edge.shards import write_split
from kd2edge.errors import UserError
from kd2edge.files import disk_fault, write_atomic
from kd2edge.schema import Target
from kd2edge.verbs.images import Floats
from kd2edge.verbs.remote_wheels import Place, wheels

PACKAGES = ("schema", "data", "metrics", "stats", "report", "edge")  # what the far side runs, beside the hall
START = "start.py"
Items = Sequence[tuple[str, Artifact]]


@dataclass(frozen=True)
class Parcel:
    """A kit, the exact bytes of its kit.json, and where its files lie on this machine, by name."""

    kit: Kit
    text: bytes
    files: Mapping[str, Path]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()


def cache() -> Path:
    """Where wheels, and what is known of kits that were made, are kept between calls."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kd2edge"


def new_kit(name: str, target: Target) -> Kit:
    """Raises `UserError` for a back end that lies in a file of the user's, which a kit does not carry."""
    if target.backend.endswith(".py") or "." in target.backend:
        raise UserError(f"The back end {target.backend} is not part of kd2edge, and a kit carries no other code.")
    return Kit(kd2edge=kd2edge.__version__, target_name=Path(name).stem, target=target, models=())


def pack(
    kit: Kit,
    items: Items,
    places: Sequence[Place],
    room: Path,
    probe: Floats | None = None,
    source: Source | None = None,
) -> Parcel:
    """Complete a kit with models by role, wheels for `places`, and either a probe, float32 [N, C, H, W], or images.

    `room` is an empty folder for what is made on the way; it must last as long as the parcel. The same content gives
    the same kit. Raises `UserError` where wheels or images cannot be had.
    """
    files = _code() | {START: Path(str(start.__file__))}
    for place in places:
        files |= {f"wheels/{place.house}/{path.name}": path for path in wheels(kit.target, place, cache())}
    models = []
    for index, (role, artifact) in enumerate(items):
        model, own = _model(index, role, artifact, room)
        models.append(model)
        files |= own
    data = None
    if source is not None and kit.suite is not None:
        written = write_split(source.split(kit.suite.split), room / "data")
        files |= {f"data/{path.name}": path for path in written}
        name = type(source).__module__.rsplit(".", 1)[-1]
        data = Data(name=name, folder="data", personal=source.personal)
    if probe is not None:
        save(room / PROBE, probe)
        files[PROBE] = room / PROBE
    listed = {name: file_of(path) for name, path in sorted(files.items())}
    kit = kit.model_copy(update={"models": tuple(models), "data": data, "files": listed})
    text = kit.model_dump_json(indent=1).encode()
    read_kit(text)  # what is sent can be read
    return Parcel(kit, text, files | {KIT: write_atomic(room / KIT, text)})


def remember(parcel: Parcel) -> None:
    """Keep the kit.json, by which results are recognized when they come back."""
    write_atomic(cache() / "kits" / f"{parcel.sha256}.json", parcel.text)


def remembered(digest: str) -> Kit:
    """Raises `UserError` for a kit that was not made here."""
    path = cache() / "kits" / f"{digest}.json"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise UserError(f"These are results of a kit that was not made here ({digest[:16]}).", "make one with --kit")
    return read_kit(path.read_bytes())


def write(parcel: Parcel, folder: Path) -> str:
    """Write a kit into a new folder, whole or not at all, and return the one command that runs it there.

    Raises `UserError` where the folder is in use, or the disk is full.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{folder} is there already, and not empty.", "name a new folder")
    try:
        for name, path in parcel.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    except BaseException as error:  # Ctrl-C too: half a kit would be in the way of the same command
        for place in {folder / name.partition("/")[0] for name in parcel.files}:
            with suppress(OSError):
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_fault(error, folder) from error
        raise
    return command(parcel, folder.resolve().name)


def command(parcel: Parcel, folder: str) -> str:
    """What a person types on the far side: it trusts nothing of the folder but what these two digests stand for.

    Without `-I` Python looks into the folder first for whatever the program imports: a json.py beside it would be run.
    """
    checked = f"echo '{parcel.kit.files[START].sha256}  {START}' | sha256sum -c -"
    return f"cd {shlex.quote(f'./{folder}')} && {checked} && python3 -I {START} {parcel.sha256}"


def _model(index: int, role: str, artifact: Artifact, room: Path) -> tuple[Model, dict[str, Path]]:
    """The file and its manifest, which keeps to itself where this machine has its data."""
    place = f"models/{index}"
    manifest = artifact.manifest.model_copy(update={"data": None, "file": artifact.path.name})
    written = room / place / f"{artifact.path.name}{SUFFIX}"
    write_atomic(written, manifest.model_dump_json(indent=1).encode())
    file = f"{place}/{artifact.path.name}"
    return Model(role=role, file=file, sha256=manifest.sha256), {file: artifact.path, f"{file}{SUFFIX}": written}


def _code() -> dict[str, Path]:
    """The hall and the edge wing; neither training, nor the command line, nor any data."""
    root = Path(kd2edge.__file__).parent
    paths = [path for path in root.glob("*.py") if path.name != "__main__.py"]
    paths += [path for name in PACKAGES for path in (root / name).rglob("*.py")]
    return {f"code/kd2edge/{path.relative_to(root).as_posix()}": path for path in paths}
