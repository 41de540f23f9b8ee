"""`keys`: make them, trust those of others, sign what ships, and verify what came."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from kd2edge import keys, signing
from kd2edge.artifact import Manifest, chain_fault, open_artifact
from kd2edge.errors import UserError
from kd2edge.keys import Key

Action = Literal["new", "list", "trust", "sign", "verify"]


class Signed(BaseModel):
    """A file that was signed."""

    file: str
    signature: str


class Verified(BaseModel):
    """What a file proves: who signed it, and the sha256 of the recipe that it comes from; `fault` where it does not."""

    file: str
    name: str | None = None
    key: str | None = None
    time: str | None = None
    recipe: str | None = None
    fault: str | None = None


def new(names: Sequence[str]) -> Key:
    """A new key pair, trusted here. Raises `UserError` as `keys.create` does."""
    return keys.create(_only("new", "NAME", names))


def trust(files: Sequence[str]) -> Key:
    """Trust a public key, by its file's name. Raises `UserError` as `keys.trust` does."""
    return keys.trust(Path(_only("trust", "FILE", files)))


def sign(files: Sequence[str], name: str | None) -> list[Signed]:
    """Sign artefacts, all or, where one of them is not what its manifest says, none.

    Raises `UserError` for that one, and where the key cannot be used.
    """
    if not files or name is None:
        raise UserError("To sign, files and a key are needed.", "kd2edge keys sign FILE... --key NAME")
    opened = [open_artifact(Path(file)) for file in files]
    for artifact in opened:
        signing.require_chain(artifact)
    return [Signed(file=str(one.path), signature=str(signing.sign(one, name))) for one in opened]


def verify(files: Sequence[str]) -> list[Verified]:
    """What each file proves. What it does not is told, not raised; `UserError` is for being given no file."""
    if not files:
        raise UserError("There is nothing to verify.", "kd2edge keys verify FILE...")
    return [_verified(Path(file)) for file in files]


def _verified(path: Path) -> Verified:
    try:
        artifact = open_artifact(path)
        found = signing.signature_of(artifact)
    except UserError as fault:
        return Verified(file=str(path), fault=fault.message)
    recipe = _recipe(artifact.manifest)
    if found is None:
        return Verified(file=str(path), recipe=recipe, fault=f"{path} is not signed.")
    return Verified(file=str(path), name=found.name, key=found.key, time=found.time, recipe=recipe)


def _recipe(manifest: Manifest) -> str | None:
    """The sha256 of the recipe at the root; None for a file that began as somebody else's."""
    if chain_fault(manifest):
        return None
    return next((ancestor.sha256 for ancestor in manifest.lineage if ancestor.kind == "recipe"), None)


def _only(action: Action, what: str, given: Sequence[str]) -> str:
    if len(given) != 1:
        raise UserError(f"`keys {action}` takes one {what}, not {len(given)}.", f"kd2edge keys {action} {what}")
    return given[0]
