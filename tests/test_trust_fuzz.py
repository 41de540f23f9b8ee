"""Damaged manifests, signatures, kits, engines and ONNX files are refused in a sentence or parsed, and nothing else.

Seeds are fixed, so that every run tries the same damage. No case may take `PATIENCE` seconds. ONNX files have a file of
tests of their own.
"""

import contextlib
import hashlib
import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kd2edge import keys, signing
from kd2edge.artifact import (
    Ancestor,
    Artifact,
    ancestors,
    describe,
    manifest_path,
    open_artifact,
    read_manifest,
    read_verified,
    signature_path,
)
from kd2edge.edge import start, trt_build
from kd2edge.edge.kit import KIT, RESULT, Data, File, Kit, Made, Model, Result, read_kit, read_result
from kd2edge.edge.trt_build import TrtBackend
from kd2edge.errors import UserError
from kd2edge.schema import Suite, Target
from tests import mutations
from tests.test_trust_fuzz_onnx import ONNX, PATIENCE

MANIFESTS, SIGNATURES, KITS, ENGINES = 600, 400, 300, 300
ENGINE = bytes(range(256)) * 8
TARGET = Target(about="a board", backend="tensorrt", flavour="tensorrt", precisions=("int8",))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD2EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KD2EDGE_PASSPHRASE", raising=False)
    keys.create("release")


def test_there_are_two_thousand_of_them() -> None:
    assert MANIFESTS + SIGNATURES + KITS + ENGINES + ONNX >= 2000


@contextlib.contextmanager
def patience(seed: int) -> Iterator[None]:
    """Fail where a case takes too long."""

    def late(number: int, frame: object) -> NoReturn:
        raise AssertionError(f"seed {seed} hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(seed: int, read: Callable[[], object]) -> bool:
    """Whether `read` refuses in a sentence that can be printed; any exception but `UserError` fails the test."""
    with patience(seed):
        try:
            read()
        except UserError as fault:
            said = fault.message
        else:
            return False
    assert 0 < len(said) < 2000, f"seed {seed} is refused without a word, or at length"
    return True


def engine(folder: Path) -> Artifact:
    """Some bytes as an engine, with all that a manifest can say, signed."""
    recipe = Ancestor(role="recipe", kind="recipe", sha256="a" * 64)
    model, path = folder / "int8.onnx", folder / "int8.engine"
    model.write_bytes(b"model")
    path.write_bytes(ENGINE)
    parent = describe(model, kind="onnx", role="int8", verb="quantize", parents=(recipe.sha256,), lineage=(recipe,))
    made = describe(
        path,
        kind="engine",
        role="int8",
        verb="export",
        precision="int8",
        flavour="tensorrt",
        target="board",
        task="classification",
        output="logits",
        classes=("a", "b"),
        parents=(parent.manifest.sha256,),
        lineage=ancestors(parent),
        preprocessing={
            "size": (8, 8),
            "channels": 3,
            "color": "RGB",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "decoder": "d",
        },
        details={"target": TARGET.model_dump(mode="json"), "built_on": {"gpu": "Orin"}, "layers": [{"ms": 0.1}]},
    )
    signing.sign(made, "release")
    return made


def damaged(whole: bytes, chance: random.Random, other: bytes) -> bytes:
    """A JSON document damaged as text or as a document."""
    return mutations.json_of(whole, chance) if chance.random() < 0.6 else mutations.bytes_of(whole, chance, other)


def test_a_damaged_manifest_is_refused_or_read_and_never_believed(tmp_path: Path) -> None:
    made = engine(tmp_path)
    path = manifest_path(made.path)
    whole, other, told = path.read_bytes(), signature_path(made.path).read_bytes(), 0
    for seed in range(MANIFESTS):
        content = damaged(whole, random.Random(seed), other)
        path.write_bytes(content)
        told += refused(seed, lambda: read_manifest(made.path))
        if not refused(seed, lambda: open_artifact(made.path)):
            assert read_manifest(made.path)[0].sha256 == made.manifest.sha256
        if content != whole:
            assert refused(seed, lambda: read_verified(made.path, require_signature=True)), f"seed {seed} is believed"
            assert refused(seed, lambda: signing.signature_of(made)), f"seed {seed} is believed"
    assert 0.3 * MANIFESTS < told < 0.95 * MANIFESTS, told


def test_a_damaged_signature_is_believed_only_where_it_still_says_the_same(tmp_path: Path) -> None:
    made = engine(tmp_path)
    path = signature_path(made.path)
    whole, other, same = path.read_bytes(), manifest_path(made.path).read_bytes(), 0
    document, believed = json.loads(whole), signing.signature_of(made)
    for seed in range(SIGNATURES):
        path.write_bytes(damaged(whole, random.Random(seed), other))
        if not refused(seed, lambda: read_verified(made.path, require_signature=True)):
            assert json.loads(path.read_bytes()) == document, f"seed {seed} is believed"
            assert signing.signature_of(made) == believed
            same += 1
    assert same < SIGNATURES / 10


def test_a_damaged_key_is_no_key(tmp_path: Path) -> None:
    whole = (keys.home() / "keys" / "release.pub").read_bytes()
    known = keys.listed()[0].key
    for seed in range(200):
        path = tmp_path / f"k{seed}.pub"
        path.write_bytes(mutations.bytes_of(whole, random.Random(seed), ENGINE))
        if not refused(seed, lambda path=path: keys.trust(path)):  # type: ignore[misc]
            trusted = {one.name: one.key for one in keys.listed()}[path.stem]
            assert trusted == known or path.read_bytes() != whole
            (keys.home() / "trusted" / path.name).unlink()


class Board(TrtBackend):
    """A TensorRT whose deserializer writes down what it is given."""

    name, module, extra, label = "tensorrt", "tensorrt", "trt", "TensorRT"

    def available(self) -> str | None:
        return None

    def trt(self) -> Any:
        return None

    def for_devices(self, trt: Any, config: Any, target: Target) -> None:
        raise AssertionError("nothing is built here")

    def refuse_device(self, target: Target, here: Any) -> None:
        raise AssertionError("nothing is built here")

    def _here(self, trt: Any, target: Target) -> dict[str, Any]:
        return {}

    def _require_fit(self, engine: Artifact, here: Any, path: Path) -> None:
        """Fits."""


@pytest.mark.parametrize("signature", [False, True])
def test_no_damaged_engine_reaches_the_deserializer(
    signature: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file damaged, its manifest as it was or damaged too; and, where a signature is required, a manifest that was
    made anew for the damaged file."""
    reached: list[bytes] = []
    monkeypatch.setattr(trt_build, "TrtSession", lambda trt, logger, engine, *_: reached.append(engine))
    monkeypatch.setattr(trt_build, "collecting_logger", lambda trt: None)
    made = engine(tmp_path)
    manifest, sealed = manifest_path(made.path).read_bytes(), signature_path(made.path).read_bytes()
    target = TARGET.model_copy(update={"require_signature": signature})
    Board().open(made.path, target)
    assert reached == [ENGINE]
    reached.clear()
    for seed in range(ENGINES):
        chance = random.Random(seed)
        content = mutations.bytes_of(ENGINE, chance, manifest)
        made.path.write_bytes(content)
        manifest_path(made.path).write_bytes(manifest if seed % 3 else damaged(manifest, chance, ENGINE))
        if signature and seed % 3 == 1:
            fields = {name: getattr(made.manifest, name) for name in ("kind", "role", "verb", "parents", "lineage")}
            describe(made.path, **fields)
            signature_path(made.path).write_bytes(sealed)
        if content != ENGINE:
            assert refused(seed, lambda: Board().open(made.path, target)), f"seed {seed}"
            assert not reached, f"seed {seed} reached the deserializer"


def kit(folder: Path) -> tuple[bytes, bytes]:
    """The texts of a kit, which lies in `folder` with its files, and of a result."""
    folder.mkdir()
    files = {"models/int8/int8.onnx": b"model", "code/kd2edge/__init__.py": b"", "probe.npy": b"\x93NUMPY"}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    known = {n: File(sha256=hashlib.sha256(c).hexdigest(), bytes=len(c)) for n, c in files.items()}
    digest = known["models/int8/int8.onnx"].sha256
    made = Kit(
        kd2edge="1",
        target_name="board",
        target=TARGET,
        models=(Model(role="int8", file="models/int8/int8.onnx", sha256=digest),),
        data=Data(name="faces", folder="data", personal=True),
        suite_name="s",
        suite=Suite(about="s", rules=()),
        files=known,
    )
    text = made.model_dump_json().encode()
    (folder / KIT).write_bytes(text)
    result = Result(
        kit=hashlib.sha256(text).hexdigest(),
        kd2edge="1",
        target_name="board",
        device={"gpu": "Orin"},
        versions={},
        made=(Made(role="int8", parent=digest, engine="int8/int8.engine", outputs="int8/outputs.npy"),),
        files={"int8/int8.engine": known["models/int8/int8.onnx"]},
    )
    return text, result.model_dump_json().encode()


def test_a_damaged_kit_is_refused_or_read_and_never_started(tmp_path: Path) -> None:
    whole, result = kit(tmp_path / "kit")
    digest, told = hashlib.sha256(whole).hexdigest(), 0
    assert start.verified(str(tmp_path / "kit"), digest)
    for seed in range(KITS):
        chance = random.Random(seed)
        text = damaged(whole, chance, result)
        told += refused(seed, lambda: read_kit(text))  # noqa: B023
        answer = damaged(result, chance, whole)
        told += refused(seed, lambda: read_result(answer))  # noqa: B023
        here = tmp_path / "kit"
        file = chance.choice([here / KIT, *sorted(path for path in here.rglob("*") if path.is_file())])
        before = file.read_bytes()
        file.write_bytes(text if file.name == KIT else mutations.bytes_of(before, chance, whole))
        if file.read_bytes() != before:
            with patience(seed), pytest.raises(ValueError):
                start.verified(str(here), digest)
        file.write_bytes(before)
    assert KITS / 2 < told < 1.95 * KITS, (told, RESULT)
