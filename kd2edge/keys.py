"""Ed25519 keys and detached signatures: who vouches for a manifest, and whether this machine trusts them.

A private key never leaves its folder, and only its owner may read it. A signature is believed if its public key lies in
the folder of the trusted: there is no expiry, since a board without a battery does not know the time; to revoke a key,
remove its file. The curve and its encodings are those of RFC 8032 and RFC 8410, by `cryptography`.
"""

import base64
import binascii
import hashlib
import os
import re
import shlex
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from kd2edge.errors import UserError, first_line
from kd2edge.files import read_bounded, write_atomic
from kd2edge.schema.section import Section

if TYPE_CHECKING:  # loading a model that nobody signed needs no cryptography
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DOMAIN = b"kd2edge manifest 1"
FORMAT: Literal["kd2edge signature 1"] = "kd2edge signature 1"
LARGEST = 1 << 16  # of a key or a signature, in bytes: real ones have some hundred
PASSPHRASE = "KD2EDGE_PASSPHRASE"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Signature(Section):
    """A detached signature of a manifest. `key` is the sha256 of the raw public key; all but that is signed too.

    `name` is the signer's own for the key; once it is verified, the one under which this machine trusts it.
    """

    format: Literal["kd2edge signature 1"]
    key: Digest
    name: str = Field(pattern=NAME)
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    signature: str = Field(pattern=r"^[A-Za-z0-9+/]{86}==$")


class Key(Section):
    """A key by name: whether its private half is here, and whether this machine trusts it."""

    name: str
    key: Digest
    private: bool
    trusted: bool


def home() -> Path:
    """$KD2EDGE_HOME, else kd2edge/ in $XDG_CONFIG_HOME (where absolute) or in ~/.config."""
    own, base = os.environ.get("KD2EDGE_HOME"), os.environ.get("XDG_CONFIG_HOME", "")
    if own:
        return Path(own)
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "kd2edge"


def create(name: str) -> Key:
    """A new key pair, trusted here; encrypted where $KD2EDGE_PASSPHRASE is set.

    Raises `UserError` for a name that is taken or no name, and where it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder, trusted = home() / "keys", home() / "trusted"
    private, public = folder / f"{_named(name)}.pem", folder / f"{name}.pub"
    for taken in (private, public, trusted / public.name):
        if taken.exists():
            raise UserError(f"There is a key {name!r} already: {taken}.", "choose another name: keys are not replaced")
    secret = _passphrase()
    cipher = pem.BestAvailableEncryption(secret) if secret else pem.NoEncryption()
    pair = Ed25519PrivateKey.generate()
    for place in (home(), folder, trusted):
        _private_folder(place)
    text = _pem(pair.public_key())
    write_atomic(public, text)
    write_atomic(trusted / public.name, text)
    # Last, so that an interruption leaves no private key that nobody is told of.
    write_atomic(private, pair.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, cipher), mode=0o600)
    return Key(name=name, key=key_id(pair.public_key()), private=True, trusted=True)


def trust(path: Path, name: str | None = None) -> Key:
    """Trust the public key in a PEM file, under its own name or another.

    Raises `UserError` for anything else, and where that name stands for another key already.
    """
    found = _public(path)
    known = home() / "trusted" / f"{_named(name or path.stem)}.pub"
    if known.exists() and key_id(_public(known)) != key_id(found):
        raise UserError(f"The name {known.stem!r} stands for another key.", f"remove {known}, or copy {path.name} anew")
    for place in (home(), known.parent):
        _private_folder(place)
    write_atomic(known, _pem(found))
    return Key(
        name=known.stem, key=key_id(found), private=(home() / "keys" / f"{known.stem}.pem").exists(), trusted=True
    )


def listed() -> list[Key]:
    """All keys that are here, own and trusted, by name. Raises `UserError` for a file that holds none."""
    own = {path.stem: _public(path) for path in sorted((home() / "keys").glob("*.pub"))}
    trusted = _trusted()
    pairs = {(name, key_id(key)) for name, key in [*own.items(), *((name, key) for name, key in trusted.items())]}
    return [
        Key(
            name=name,
            key=key,
            private=name in own and key_id(own[name]) == key and (home() / "keys" / f"{name}.pem").exists(),
            trusted=name in trusted and key_id(trusted[name]) == key,
        )
        for name, key in sorted(pairs)
    ]


def sign(manifest: bytes, name: str) -> bytes:
    """The signature file of a manifest's exact bytes by the private key `name`.

    Raises `UserError` where there is none, others may read it, or the passphrase is missing or wrong.
    """
    pair = _pair(name)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    signed = base64.b64encode(pair.sign(_message(manifest, name, now))).decode()
    made = Signature(format=FORMAT, key=key_id(pair.public_key()), name=name, time=now, signature=signed)
    return made.model_dump_json().encode()


def verify(manifest: bytes, path: Path) -> Signature | None:
    """The signature of a manifest's exact bytes in the file `path`; None where there is no such file.

    Raises `UserError` where it cannot be read, is false, or its key is not trusted here.
    """
    try:
        found = Signature.model_validate_json(read_bounded(path, LARGEST))
        raw = base64.b64decode(found.signature, validate=True)
    except FileNotFoundError:
        return None
    except (ValidationError, binascii.Error) as error:
        raise UserError(f"The signature {path} cannot be read: {first_line(error)}.", "sign the file again") from error
    trusted = {key_id(key): (name, key) for name, key in _trusted().items()}
    if found.key not in trusted:
        raise UserError(
            f"{path} is by a key that is not trusted here: {found.name} {found.key[:16]}.",
            "kd2edge keys trust FILE.pub, once its owner has told you these digits by another way",
        )
    name, key = trusted[found.key]
    if base64.b64encode(raw).decode() != found.signature or not _holds(
        key, raw, _message(manifest, found.name, found.time)
    ):
        raise UserError(
            f"{path} is no signature of the manifest beside it: one of them was changed.",
            "fetch both again from where they were signed; do not load the file",
        )
    return found.model_copy(update={"name": name})


def key_id(key: "Ed25519PublicKey") -> str:
    """sha256 of the 32 raw bytes of a public key, in hex; people are shown the first 16 digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _message(manifest: bytes, name: str, when: str) -> bytes:
    """What is signed: no other protocol signs anything that begins so, and name and time contain no NUL."""
    return b"\0".join((DOMAIN, name.encode(), when.encode(), manifest))


def _holds(key: "Ed25519PublicKey", signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _trusted() -> dict[str, "Ed25519PublicKey"]:
    folder = home() / "trusted"
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.glob("*.pub") if path.exists())
    for place in (home(), folder, *files):
        found = place.stat()
        if stat.S_IMODE(found.st_mode) & 0o022 or found.st_uid not in (0, os.geteuid()):
            raise UserError(
                f"Others may write to {place}, so that it says nothing about trust.",
                f"look at what lies there, then: chmod go-w {shlex.quote(str(place))}",
            )
    return {path.stem: _public(path) for path in files}


def _public(path: Path) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    fault = UserError(f"{path} is no public key.", "kd2edge keys new writes NAME.pub, a PEM file of an Ed25519 key")
    try:
        found = load_pem_public_key(read_bounded(path, LARGEST))
    except FileNotFoundError:
        raise UserError(f"There is no key file {path}.") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise fault from error
    if not isinstance(found, Ed25519PublicKey):
        raise fault
    return found


def _pair(name: str) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = home() / "keys" / f"{_named(name)}.pem"
    try:
        _require_secret(path)
        text = read_bounded(path, LARGEST)
    except FileNotFoundError:
        raise UserError(f"There is no private key {name!r} ({path}).", f"kd2edge keys new {name}") from None
    secret = _passphrase()
    encrypted = b"ENCRYPTED" in text
    if encrypted and secret is None:
        raise UserError(f"The private key {name!r} is encrypted.", f"put its passphrase into ${PASSPHRASE}")
    try:
        found = load_pem_private_key(text, secret if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = f"cannot be opened with the passphrase in ${PASSPHRASE}" if encrypted else "is damaged"
        raise UserError(f"The private key {path} {why}.") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise UserError(f"{path} is no Ed25519 key.", "kd2edge keys new makes one")
    return found


def _require_secret(path: Path) -> None:
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
        raise UserError(
            f"The private key {path} can be read by others, so it proves nothing.",
            f"make a new one; if nobody else can have read it: chmod 600 {path}",
        )


def _private_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path == home() / "keys":
            path.chmod(0o700)
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.strerror or error}.", "set $KD2EDGE_HOME") from error


def _pem(key: "Ed25519PublicKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _passphrase() -> bytes | None:
    return os.environb.get(PASSPHRASE.encode()) or None


def _named(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise UserError(f"{name!r} is no name for a key.", "letters, digits, dot, dash and underscore, at most 64")
    return name
