"""An artefact is a file with a manifest beside it: what it is, whose child it is, how its input is made.

A manifest carries all its ancestors back to the recipe, so that an engine alone on a device tells what it was made of.
Whoever can write the file can write the manifest too: only a signature (`signing`) says that somebody vouches for both.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from kd2edge import __version__, keys
from kd2edge.errors import UserError, first_line
from kd2edge.files import is_plain, read_bounded, sha256, write_atomic
from kd2edge.keys import Digest
from kd2edge.schema import Flavour, Plugin, Precision, Preprocessing, Section, TaskName

SUFFIX = ".manifest.json"
SIGNATURE = ".sig"
LARGEST = 16 << 20  # of a manifest, in bytes
REQUIRED = "KD2EDGE_REQUIRE_SIGNATURE"
ROOTS = ("recipe", "onnx", "weights")  # what a chain may begin with: a recipe, or a file that somebody else made


class Ancestor(Section):
    """A file that an artefact was made from, however far back; `parents` are the sha256 of what it was made from."""

    role: str
    kind: Literal["recipe", "weights", "onnx", "engine", "probe"]
    sha256: Digest
    parents: tuple[Digest, ...] = Field((), max_length=64)


class Manifest(Section):
    """What stands beside a file. `parents` are the sha256 of the files it was made from, `lineage` these and theirs."""

    manifest: Literal[1] = 1
    file: str
    sha256: Digest
    bytes: int = Field(ge=0)
    kind: Literal["weights", "onnx", "engine", "probe"]
    role: str
    verb: str
    parents: tuple[Digest, ...] = Field((), max_length=64)
    lineage: tuple[Ancestor, ...] = Field((), max_length=64)
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

    @field_validator("file")
    @classmethod
    def _of_its_own_folder(cls, name: str) -> str:
        if not is_plain(name):
            raise ValueError(f"{name!r} is no plain file name")
        return name


class Artifact:
    """A file and its manifest, verified against each other when opened."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Artifact({self.path}, {self.manifest.role}, {self.manifest.precision})"


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def signature_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX + SIGNATURE)


def describe(path: Path, **fields: Any) -> Artifact:
    """Write the manifest of a finished file and return the artefact; a signature of an older manifest goes.

    Raises `UserError` for a file whose name cannot be printed, and where nothing can be written.
    """
    if not is_plain(path.name):
        raise UserError(f"{path.name!r} is no name for a model.", "rename it: no backslash, no control character")
    manifest = Manifest(
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        versions={"kd2edge": __version__, **fields.pop("versions", {})},
        **fields,
    )
    signature_path(path).unlink(missing_ok=True)
    write_atomic(manifest_path(path), manifest.model_dump_json(indent=1).encode())
    return Artifact(path, manifest)


def has_manifest(path: Path) -> bool:
    return manifest_path(path).is_file()


def signature_required() -> bool:
    """Whether this machine opens nothing unsigned, whatever a target says: $KD2EDGE_REQUIRE_SIGNATURE is set."""
    return os.environ.get(REQUIRED, "") not in ("", "0")


def read_manifest(path: Path) -> tuple[Manifest, bytes]:
    """The manifest beside the file `path`, and its exact bytes. Raises `UserError` where it cannot be read."""
    file = manifest_path(path)
    try:
        content = read_bounded(file, LARGEST)
        return Manifest.model_validate_json(content), content
    except FileNotFoundError:
        raise UserError(f"{path} has no manifest beside it ({file.name}).") from None
    except (ValueError, ValidationError) as error:
        raise UserError(f"The manifest {file} cannot be read: {_fault(error)}.") from error


def open_artifact(path: Path, require_signature: bool = False) -> Artifact:
    """Open a file that carries a manifest, with a signature that is trusted here where that is required.

    Raises `UserError` when either is missing or unreadable, when the file's sha256 is not the manifest's, when the
    manifest's chain of ancestors is broken, and, where it is required, when the signature is missing or not believed.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    manifest = _vouched(path, require_signature)
    if path.stat().st_size != manifest.bytes or sha256(path) != manifest.sha256:
        raise _altered(path)
    return Artifact(path, manifest)


def read_verified(path: Path, require_signature: bool = False) -> tuple[Artifact, bytes]:
    """Open a file as `open_artifact` does, and return its content: the very bytes that were verified, read once.

    For what is given to a runtime: a file could be exchanged between its verification and a second reading.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    manifest = _vouched(path, require_signature)
    if path.stat().st_size != manifest.bytes:  # before room is made for it
        raise _altered(path)
    content = read_bounded(path, manifest.bytes)
    if len(content) != manifest.bytes or hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise _altered(path)
    return Artifact(path, manifest), content


def ancestors(*parents: Artifact) -> tuple[Ancestor, ...]:
    """The `lineage` of what is made of `parents`: these, then what they were made from, each once.

    Of a file and its unchanged copy the older tells what it was made from. Empty where a parent does not tell its own
    ancestors, as manifests of before there were chains: a chain with a gap is none, and cannot be signed.
    """
    if any(chain_fault(parent.manifest) for parent in parents):
        return ()
    own = [
        Ancestor(role=m.role, kind=m.kind, sha256=m.sha256, parents=m.parents)
        for m in (one.manifest for one in parents)
    ]
    inherited = [ancestor for parent in parents for ancestor in parent.manifest.lineage]
    return tuple({ancestor.sha256: ancestor for ancestor in [*own, *inherited]}.values())


def chain_fault(manifest: Manifest) -> str | None:
    """Why a manifest does not tell what its file was made from, all the way back; None where it does.

    A chain ends at a recipe, or at a file that somebody else made. Those of manifests written before there were chains
    are broken at the first parent.
    """
    known = {ancestor.sha256: ancestor for ancestor in manifest.lineage}
    if len(known) < len(manifest.lineage):
        return "an ancestor is told twice"
    if manifest.sha256 in known and manifest.sha256 not in manifest.parents:  # which an unchanged copy is
        return "it is its own ancestor"
    steps: dict[str, Sequence[str]] = {digest: ancestor.parents for digest, ancestor in known.items()}
    reached, fault = _reached(manifest.parents, steps)
    if fault is None and len(reached) < len(known):
        fault = f"nothing was made from its ancestor {next(iter(known.keys() - reached))[:16]}"
    for ancestor in manifest.lineage:
        if fault is None and not ancestor.parents and ancestor.kind not in ROOTS:
            fault = f"its ancestor {ancestor.sha256[:16]}, an {ancestor.kind}, was made from nothing"
        if fault is None and ancestor.parents and ancestor.kind == "recipe":
            fault = "its recipe was made from something"
    return fault


def _reached(parents: Sequence[str], steps: Mapping[str, Sequence[str]]) -> tuple[set[str], str | None]:
    """All ancestors, depth first; and the fault where one is missing, or comes back to itself."""
    done: set[str] = set()
    path: list[tuple[str, list[str]]] = [("", list(parents))]
    while path:
        left = path[-1][1]
        if not left:
            done.add(path.pop()[0])
            continue
        parent = left.pop()
        if parent not in steps:
            return done, f"its ancestor {parent[:16]} is not told"
        if any(parent == above for above, _ in path):
            return done, f"its ancestor {parent[:16]} was made from itself"
        if parent not in done:
            path.append((parent, list(steps[parent])))
    return done - {""}, None


def _vouched(path: Path, require_signature: bool) -> Manifest:
    """The manifest of a file that is not looked at yet, its chain and, where required, its signature verified."""
    manifest, content = read_manifest(path)
    required = require_signature or signature_required()
    fault = chain_fault(manifest) if required or manifest.lineage else None
    if fault:
        raise UserError(f"{path} does not prove what it was made from: {fault}.", "make it again with kd2edge")
    if required and keys.verify(content, signature_path(path)) is None:
        raise UserError(
            f"{path} is not signed, and nothing unsigned is loaded here.",
            f"where its maker's key is: kd2edge keys sign {path.name} --key NAME",
        )
    return manifest


def _altered(path: Path) -> UserError:
    return UserError(
        f"{path} is not the file its manifest describes: the sha256 differs.",
        "it was changed or damaged after it was written; make it again",
    )


def _fault(error: ValueError) -> str:
    """What is wrong with a manifest, in a short line that can be printed: pydantic's own only counts the faults."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    told = f"{where}: {first['msg']}" if where else first["msg"]
    return "".join(letter if letter.isprintable() else "?" for letter in told[:200])
