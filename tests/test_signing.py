"""Signatures and chains: what is vouched for verifies, and whatever was changed since, or is not trusted, does not."""

import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kd2edge import keys, signing
from kd2edge.artifact import (
    Ancestor,
    Artifact,
    ancestors,
    describe,
    manifest_path,
    open_artifact,
    read_verified,
    signature_path,
)
from kd2edge.errors import UserError

RECIPE = Ancestor(role="recipe", kind="recipe", sha256="a" * 64)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "home"))
    for name in ("KD2EDGE_PASSPHRASE", "KD2EDGE_REQUIRE_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def made(folder: Path, content: bytes = b"weights") -> Artifact:
    """An ONNX file made from weights made from a recipe, as far as its manifest says."""
    weights, model = folder / "fp32.safetensors", folder / "fp32.onnx"
    weights.write_bytes(b"state")
    model.write_bytes(content)
    fields = {"role": "fp32", "verb": "distill"}
    parent = describe(weights, kind="weights", parents=(RECIPE.sha256,), lineage=(RECIPE,), **fields)
    return describe(model, kind="onnx", parents=(parent.manifest.sha256,), lineage=ancestors(parent), **fields)


def signed(folder: Path) -> Artifact:
    artifact = made(folder)
    keys.create("release")
    signing.sign(artifact, "release")
    return artifact


def test_what_is_signed_says_by_whom(tmp_path: Path) -> None:
    artifact = signed(tmp_path)
    found = signing.signature_of(artifact)
    assert found is not None
    assert found.name == "release"
    raw = pem.load_pem_public_key((keys.home() / "keys" / "release.pub").read_bytes())
    text = json.loads(signature_path(artifact.path).read_bytes())
    message = b"kd2edge manifest 1\0release\0" + found.time.encode() + b"\0" + manifest_path(artifact.path).read_bytes()
    raw.verify(base64.b64decode(text["signature"]), message)  # type: ignore[union-attr, call-arg]
    opened, content = read_verified(artifact.path, require_signature=True)
    assert content == b"weights"
    assert opened.manifest == open_artifact(artifact.path, require_signature=True).manifest == artifact.manifest


CHANGES: dict[str, Callable[[Artifact], object]] = {
    "the file": lambda a: a.path.write_bytes(b"Weights"),
    "the manifest": lambda a: edit(a, role="int8"),
    "a space in the manifest": lambda a: manifest_path(a.path).write_bytes(manifest_path(a.path).read_bytes() + b" "),
    "file and manifest": lambda a: describe(a.path, **fields_of(a, b"other")),
    "the signature": lambda a: edit_signature(a, signature=base64.b64encode(bytes(64)).decode()),
    "the time": lambda a: edit_signature(a, time="2001-01-01T00:00:00Z"),
    "the name": lambda a: edit_signature(a, name="another"),
    "the key": lambda a: edit_signature(a, key="0" * 64),
    "the format": lambda a: edit_signature(a, format="kd2edge signature 2"),
    "no signature": lambda a: signature_path(a.path).unlink(),
    "no manifest": lambda a: manifest_path(a.path).unlink(),
    "the trust": lambda a: (keys.home() / "trusted" / "release.pub").unlink(),
    "unused bits of the signature": lambda a: unused_bits(a),
    "a signature of megabytes": lambda a: signature_path(a.path).write_bytes(b" " * (1 << 20)),
    "a signature that is a pipe": lambda a: pipe(signature_path(a.path)),
    "a manifest that is a pipe": lambda a: pipe(manifest_path(a.path)),
    "a manifest of gigabytes": lambda a: os.truncate(manifest_path(a.path), 1 << 32),
    "another's signature": lambda a: others(a),
}


def edit(artifact: Artifact, **changes: object) -> None:
    path = manifest_path(artifact.path)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def edit_signature(artifact: Artifact, **changes: str) -> None:
    path = signature_path(artifact.path)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def fields_of(artifact: Artifact, content: bytes) -> dict[str, object]:
    artifact.path.write_bytes(content)
    return {
        "kind": "onnx",
        "role": "fp32",
        "verb": "distill",
        **{n: getattr(artifact.manifest, n) for n in ("parents", "lineage")},
    }


def pipe(path: Path) -> None:
    """Whoever opens it for reading waits for somebody to write."""
    path.unlink()
    os.mkfifo(path)


def unused_bits(artifact: Artifact) -> None:
    """86 digits hold 516 bits, and a signature has 512: another last digit gives the same bytes."""
    text = json.loads(signature_path(artifact.path).read_bytes())["signature"]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:85] + digits[digits.index(text[85]) + 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(text)
    edit_signature(artifact, signature=other)


def others(artifact: Artifact) -> None:
    """A true signature of another file by the same key."""
    folder = artifact.path.parent / "other"
    folder.mkdir()
    signing.sign(made(folder, b"else"), "release")
    signature_path(artifact.path).write_bytes(signature_path(folder / "fp32.onnx").read_bytes())


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_changed_is_refused_where_a_signature_is_required(change: str, tmp_path: Path) -> None:
    artifact = signed(tmp_path)
    CHANGES[change](artifact)
    for reader in (open_artifact, read_verified):
        with pytest.raises(UserError, match=r"fp32\.onnx"):
            reader(artifact.path, require_signature=True)


def test_without_a_policy_a_signature_is_not_asked_for_and_with_one_it_always_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = made(tmp_path)
    assert signing.signature_of(artifact) is None
    assert read_verified(artifact.path)[1] == b"weights"
    monkeypatch.setenv("KD2EDGE_REQUIRE_SIGNATURE", "1")
    with pytest.raises(UserError, match="not signed"):
        open_artifact(artifact.path)
    with pytest.raises(UserError, match="not signed"):
        read_verified(artifact.path)


def test_a_new_manifest_voids_the_signature_of_the_old_one(tmp_path: Path) -> None:
    artifact = signed(tmp_path)
    made(tmp_path)
    assert signing.signature_of(artifact) is None


def test_an_artefact_is_not_signed_for_another(tmp_path: Path) -> None:
    artifact = signed(tmp_path)
    describe(artifact.path, **fields_of(artifact, b"other"))
    with pytest.raises(UserError, match="opened with"):
        signing.sign(artifact, "release")


def test_keys_are_for_their_owner_alone(home: Path) -> None:
    keys.create("mine")
    private = home / "keys" / "mine.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home, home / "keys", home / "trusted")} == {0o700}
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    for mode in (0o640, 0o604, 0o620):
        private.chmod(mode)
        with pytest.raises(UserError, match="read by others"):
            keys.sign(b"m", "mine")
    private.chmod(0o600)
    assert keys.sign(b"m", "mine")
    with pytest.raises(UserError, match="already"):
        keys.create("mine")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a\n", "a" * 65, "ä"])
def test_a_keys_name_is_no_path(name: str, home: Path) -> None:
    for use in (keys.create, lambda n: keys.sign(b"m", n)):
        with pytest.raises(UserError, match="no name for a key"):
            use(name)
    assert not home.exists()


def test_a_passphrase_is_needed_again(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("KD2EDGE_PASSPHRASE", "ört")
    keys.create("mine")
    assert b"ENCRYPTED" in (home / "keys" / "mine.pem").read_bytes()
    assert keys.sign(b"m", "mine")
    monkeypatch.setenv("KD2EDGE_PASSPHRASE", "other")
    with pytest.raises(UserError, match="cannot be opened"):
        keys.sign(b"m", "mine")
    monkeypatch.delenv("KD2EDGE_PASSPHRASE")
    with pytest.raises(UserError, match="encrypted"):
        keys.sign(b"m", "mine")


@pytest.mark.parametrize("fault", ["garbage", "another curve", "a private key", "empty", "large"])
def test_only_public_ed25519_keys_are_trusted(fault: str, tmp_path: Path, home: Path) -> None:
    other = generate_private_key(SECP256R1()).public_key()
    own = Ed25519PrivateKey.generate()
    private = own.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    texts = {
        "garbage": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "another curve": other.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo),
        "a private key": private,
        "empty": b"",
        "large": b" " * 100_000,
    }
    (tmp_path / "their.pub").write_bytes(texts[fault])
    with pytest.raises(UserError, match=r"their\.pub"):
        keys.trust(tmp_path / "their.pub")
    assert not home.exists()


def test_another_machine_trusts_the_public_half_and_forgets_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    artifact = signed(tmp_path)
    public = home / "keys" / "release.pub"
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "device"))
    with pytest.raises(UserError, match=r"not trusted here: release [0-9a-f]{16}"):
        open_artifact(artifact.path, require_signature=True)
    theirs = tmp_path / "factory.pub"
    theirs.write_bytes(public.read_bytes())
    trusted = keys.trust(theirs)
    assert (trusted.name, trusted.private, trusted.trusted) == ("factory", False, True)
    found = signing.signature_of(artifact)
    assert found is not None
    assert found.name == "factory"  # what it is called here, whatever its owner calls it
    assert keys.listed() == [trusted]
    (tmp_path / "device" / "trusted" / "factory.pub").unlink()
    with pytest.raises(UserError, match="not trusted"):
        signing.signature_of(artifact)


def test_a_name_never_comes_to_stand_for_another_key(tmp_path: Path) -> None:
    keys.create("release")
    (tmp_path / "release.pub").write_bytes(keys._pem(Ed25519PrivateKey.generate().public_key()))
    with pytest.raises(UserError, match="another key"):
        keys.trust(tmp_path / "release.pub")


@pytest.mark.parametrize("place", [".", "trusted", "trusted/release.pub"])
def test_trust_that_others_can_write_is_none(place: str, tmp_path: Path, home: Path) -> None:
    artifact = signed(tmp_path)
    (home / place).chmod(0o777)
    with pytest.raises(UserError, match="Others may write"):
        open_artifact(artifact.path, require_signature=True)


def test_keys_lie_where_the_desktop_keeps_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KD2EDGE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative/is/ignored"):
        monkeypatch.setenv("XDG_CONFIG_HOME", given)
        assert keys.home() == tmp_path / ".config" / "kd2edge"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert keys.home() == tmp_path / "xdg" / "kd2edge"
