"""Manifests: a chain back to the recipe in each, and nothing in one that a reader could stumble over."""

from pathlib import Path

import pytest

from kd2edge import keys, signing
from kd2edge.artifact import Ancestor, Manifest, ancestors, chain_fault, describe, manifest_path, open_artifact
from kd2edge.errors import UserError
from tests.test_signing import RECIPE, edit, fields_of, made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KD2EDGE_PASSPHRASE", raising=False)


def engine(*lineage: Ancestor, parents: tuple[str, ...] = ("1" * 64,)) -> Manifest:
    fields = {"file": "e.engine", "sha256": "e" * 64, "bytes": 1, "kind": "engine", "role": "int8", "verb": "export"}
    return Manifest.model_validate({**fields, "parents": parents, "lineage": lineage})


def ancestor(digit: str, *parents: str, kind: str = "onnx") -> Ancestor:
    fields = {"role": "fp32", "kind": kind, "sha256": digit * 64, "parents": [parent * 64 for parent in parents]}
    return Ancestor.model_validate(fields)


CHAINS = {
    None: engine(ancestor("1", "2"), ancestor("2", "a", kind="weights"), RECIPE),
    "is not told": engine(ancestor("1", "2"), RECIPE),
    "11111 is not told": engine(),
    "nothing was made from": engine(ancestor("1"), ancestor("2")),
    "made from itself": engine(ancestor("1", "2"), ancestor("2", "3"), ancestor("3", "1")),
    "its own ancestor": engine(ancestor("1", "e"), ancestor("e", "a"), RECIPE),
    "told twice": engine(ancestor("1"), ancestor("1", "2"), ancestor("2")),
    "made from nothing": engine(ancestor("1", kind="engine")),
    "recipe was made from": engine(ancestor("1", "2", kind="recipe"), ancestor("2")),
}


@pytest.mark.parametrize("fault", CHAINS)
def test_a_broken_chain_is_told(fault: str | None) -> None:
    found = chain_fault(CHAINS[fault])
    assert found is None if fault is None else found is not None and fault in found


def test_chains_that_share_ancestors_are_sound_and_walked_once() -> None:
    """Each generation is made from both of the one before: 2 ** 30 ways back to the recipe."""
    letters = [f"{number:064x}" for number in range(1, 61)]
    rows = [(letters[i], letters[i + 1]) for i in range(0, 60, 2)]
    lineage = [
        Ancestor(role="r", kind="weights", sha256=one, parents=rows[place + 1] if place < 29 else (RECIPE.sha256,))
        for place, row in enumerate(rows)
        for one in row
    ]
    assert chain_fault(engine(*lineage, RECIPE, parents=rows[0])) is None


def test_a_file_that_was_written_anew_without_a_change_is_no_cycle(tmp_path: Path) -> None:
    """As an ONNX file of others is by `export`, where nothing is to be mended."""
    model = made(tmp_path)
    copy = describe(
        model.path, **fields_of(model, b"weights") | {"parents": (model.manifest.sha256,), "lineage": ancestors(model)}
    )
    assert copy.manifest.sha256 == model.manifest.sha256
    assert chain_fault(copy.manifest) is None
    (tmp_path / "e.engine").write_bytes(b"plan")
    told = {"parents": (copy.manifest.sha256,), "lineage": ancestors(copy)}
    built = describe(tmp_path / "e.engine", kind="engine", role="fp32", verb="export", **told)
    assert chain_fault(built.manifest) is None
    assert [one.kind for one in built.manifest.lineage] == ["onnx", "weights", "recipe"]


def test_a_whole_chain_lies_in_a_lone_manifest(tmp_path: Path) -> None:
    model = made(tmp_path)
    path = tmp_path / "fp32.engine"
    path.write_bytes(b"plan")
    built = describe(
        path, kind="engine", role="fp32", verb="export", parents=(model.manifest.sha256,), lineage=ancestors(model)
    )
    model.path.unlink()
    manifest = open_artifact(built.path).manifest
    assert [one.kind for one in manifest.lineage] == ["onnx", "weights", "recipe"]
    assert chain_fault(manifest) is None


def test_a_manifest_without_chains_is_read_but_not_signed(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    edit(artifact, lineage=[])
    old = open_artifact(artifact.path)
    keys.create("release")
    with pytest.raises(UserError, match="does not prove"):
        signing.sign(old, "release")
    edit(artifact, lineage=[RECIPE.model_dump()])
    with pytest.raises(UserError, match="does not prove"):
        open_artifact(artifact.path)


@pytest.mark.parametrize(
    "name", ["../fp32.onnx", "/etc/passwd", "a/b.onnx", "..", "", "a\0b", "a\nb", "a\\b", "\x1b[2J"]
)
def test_a_manifest_names_a_file_of_its_own_folder(name: str, tmp_path: Path) -> None:
    artifact = made(tmp_path)
    edit(artifact, file=name)
    with pytest.raises(UserError, match="no plain file name") as caught:
        open_artifact(artifact.path)
    assert caught.value.message.isprintable()


def test_a_file_whose_name_cannot_be_printed_is_not_described(tmp_path: Path) -> None:
    (tmp_path / "a\nb").touch()
    with pytest.raises(UserError, match="no name for a model"):
        describe(tmp_path / "a\nb", kind="onnx", role="fp32", verb="test")


@pytest.mark.parametrize("fault", ["deep", "huge number", "two kinds", "text", "list", "surrogate", "a long key"])
def test_a_manifest_that_is_no_manifest_is_told_in_a_short_sentence(fault: str, tmp_path: Path) -> None:
    artifact = made(tmp_path)
    texts = {
        "deep": '{"details":' * 1 + "[" * 100_000,
        "huge number": '{"bytes":' + "9" * 100_000 + "}",
        "two kinds": manifest_path(artifact.path).read_text() * 2,
        "text": "nothing",
        "list": "[]",
        "surrogate": '{"file": "\\ud800"}',
        "a long key": '{"' + "k\\n" * 100_000 + '": 1}',
    }
    manifest_path(artifact.path).write_text(texts[fault])
    with pytest.raises(UserError, match="cannot be read") as caught:
        open_artifact(artifact.path)
    assert len(caught.value.message) < 600
    assert caught.value.message.isprintable()


def test_what_is_made_of_a_file_without_a_chain_has_none_either_and_opens(tmp_path: Path) -> None:
    old, child = tmp_path / "old.onnx", tmp_path / "child.onnx"
    old.write_bytes(b"old")
    child.write_bytes(b"child")
    parent = describe(old, kind="onnx", role="fp32", verb="distill", parents=("7" * 64,))
    chain = {"parents": (parent.manifest.sha256,), "lineage": ancestors(parent)}
    describe(child, kind="onnx", role="int8", verb="quantize", **chain)
    assert open_artifact(child).manifest.lineage == ()
    keys.create("ours")
    with pytest.raises(UserError, match="does not prove what it was made from"):
        signing.sign(open_artifact(child), "ours")
