"""Signing artefacts: a signature lies beside a manifest and is of its exact bytes, and so of the file's sha256 too."""

from pathlib import Path

from kd2edge import keys
from kd2edge.artifact import Artifact, chain_fault, read_manifest, signature_path
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.keys import Signature


def sign(artifact: Artifact, key_name: str) -> Path:
    """Sign an artefact with a private key by name, and return the signature's file, beside the manifest.

    Raises `UserError` where the manifest is not that of the artefact any more, or does not prove what it was made from,
    and as `keys.sign` does.
    """
    require_chain(artifact)
    return write_atomic(signature_path(artifact.path), keys.sign(_stated(artifact), key_name))


def signature_of(artifact: Artifact) -> Signature | None:
    """Who signed an artefact, by the name that this machine trusts them under; None where nobody did.

    Raises `UserError` for a signature that is false or by a key that is not trusted, for a manifest that does not prove
    what it was made from, and where it is not that of the artefact any more.
    """
    found = keys.verify(_stated(artifact), signature_path(artifact.path))
    if found is not None:
        require_chain(artifact)
    return found


def require_chain(artifact: Artifact) -> None:
    """Raise `UserError` for an artefact whose manifest does not tell what it was made from, back to the recipe."""
    fault = chain_fault(artifact.manifest)
    if fault:
        raise UserError(f"{artifact.path} does not prove what it was made from: {fault}.", "make it again with kd2edge")


def _stated(artifact: Artifact) -> bytes:
    """The exact bytes of the manifest beside an artefact."""
    manifest, content = read_manifest(artifact.path)
    if manifest.sha256 != artifact.manifest.sha256:
        raise UserError(f"The manifest of {artifact.path} is not the one it was opened with.", "open it again")
    return content
