"""An artefact is a file with a manifest beside it: what it is, whose child it is, how its input is made."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kd2edge import __version__
from kd2edge.errors import UserError, first_line
from kd2edge.files import sha256, write_atomic
from kd2edge.schema import Flavour, Plugin, Precision, Preprocessing, Section, TaskName

SUFFIX = ".manifest.json"


class Manifest(Section):
    """What stands beside a file. `parents` are the sha256 of the files it was made from."""

    manifest: Literal[1] = 1
    file: str
    sha256: str
    bytes: int
    kind: Literal["weights", "onnx", "engine", "probe"]
    role: str
    verb: str
    parents: tuple[str, ...] = ()
    precision: Precision = "fp32"
    flavour: Flavour | None = None
    target: str | None = None
    task: TaskName | None = None
    output: Literal["embedding", "logits"] | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    data: Plugin | None = None
    parity: dict[str, Any] | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class Artifact:
    """A file and its manifest, verified against each other when opened."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Artifact({self.path}, {self.manifest.role}, {self.manifest.precision})"


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def describe(path: Path, **fields: Any) -> Artifact:
    """Write the manifest of a finished file and return the artefact."""
    manifest = Manifest(
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        versions={"kd2edge": __version__, **fields.pop("versions", {})},
        **fields,
    )
    write_atomic(manifest_path(path), manifest.model_dump_json(indent=1).encode())
    return Artifact(path, manifest)


def has_manifest(path: Path) -> bool:
    return manifest_path(path).is_file()


def open_artifact(path: Path) -> Artifact:
    """Open a file that carries a manifest.

    Raises `UserError` when either is missing or unreadable, or when the file's sha256 is not the manifest's.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        manifest = Manifest.model_validate(json.loads(manifest_path(path).read_bytes()))
    except FileNotFoundError:
        raise UserError(f"{path} has no manifest beside it ({manifest_path(path).name}).") from None
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"The manifest {manifest_path(path)} cannot be read: {first_line(error)}.") from error
    if sha256(path) != manifest.sha256:
        raise UserError(
            f"{path} is not the file its manifest describes: the sha256 differs.",
            "it was changed or damaged after it was written; make it again",
        )
    return Artifact(path, manifest)
