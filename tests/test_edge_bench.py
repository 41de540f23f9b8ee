"""The bench end to end: worker processes, ONNX Runtime for real, and every way in which one row may fail alone."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd2edge import artifact
from kd2edge.artifact import Artifact
from kd2edge.data import Images, InMemory, Ints, Source, Split
from kd2edge.edge import jobs, worker
from kd2edge.edge.bench import bench
from kd2edge.edge.decoded import CHUNK
from kd2edge.edge.gate import judge
from kd2edge.errors import UserError
from kd2edge.report.model import Number, Report, read_report, write_json
from kd2edge.schema import BatchRange, Latency, Preprocessing, Rule, Suite, Target

PREPROCESSING = Preprocessing(size=(8, 8), channels=1, color="L", mean=(0.0,), std=(1.0,), decoder="none")
TARGET = Target(about="here", backend="onnxruntime", flavour="ort-x86", precisions=("fp32", "int8"))
BRIEF = Latency(warmup_ms=2, seconds=0.03, min_samples=90)
CLASSES, EACH = 12, 4


class Patterns(Source):
    """Each class is a random picture; its images are that picture with noise."""

    def __init__(self, config: Any = None) -> None:
        random = np.random.default_rng(0)
        pictures = random.integers(0, 256, (CLASSES, 1, 8, 8, 1))
        noise = random.integers(-60, 61, (CLASSES, EACH, 8, 8, 1))
        self.images = np.clip(pictures + noise, 0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)
        self.labels = np.repeat(np.arange(CLASSES), EACH)
        self.prototypes = pictures.reshape(CLASSES, 64) / 255

    def split(self, name: str) -> Split:
        return InMemory(self.images, self.labels, {}, [str(label) for label in range(CLASSES)])

    def preprocessing(self) -> Preprocessing:
        return PREPROCESSING


def linear(path: Path, weights: np.ndarray, batch: str | int = "N", **manifest: Any) -> Artifact:
    """An ONNX file of y = pixels times `weights` [64, D], with its manifest."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    fields = {"kind": "onnx", "role": path.stem, "verb": "test", "preprocessing": PREPROCESSING}
    return artifact.describe(path, **(fields | {"task": "classification", "output": "logits"} | manifest))


def embedder(path: Path, weights: np.ndarray, **manifest: Any) -> Artifact:
    return linear(path, weights, **({"task": "verification", "output": "embedding"} | manifest))


def classifier() -> np.ndarray:
    """Least-squares weights that tell the patterns apart."""
    source = Patterns()
    pixels = source.images.reshape(len(source.images), 64) / 255
    return np.asarray(np.linalg.lstsq(pixels, np.eye(CLASSES)[source.labels], rcond=None)[0])


def run(items: list[tuple[str, Artifact]], target: Target = TARGET, **options: Any) -> Report:
    rule = Rule(metric="size", of="fp32", at_most=1.0, why="it is tiny")
    suite = Suite(about="brief", latency=options.pop("latency", BRIEF), rules=options.pop("rules", (rule,)))
    return bench(items, target, "here", suite, "brief", Patterns(), command="kd2edge bench", **options)


def test_a_verification_bench(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    weights = random.standard_normal((64, 16))
    fp32 = embedder(tmp_path / "fp32.onnx", weights)
    int8 = embedder(tmp_path / "int8.onnx", np.round(weights * 8) / 8, precision="int8")
    gone = embedder(tmp_path / "plain.onnx", weights)
    gone.path.unlink()
    told: list[tuple[str, float]] = []
    report = run(
        [("fp32", fp32), ("int8", int8), ("plain", gone)],
        extra_numbers={"fp32": {"parameters": Number(value=1024, unit="")}},
        progress=lambda text, share: told.append((text, share)),
    )
    rows = {row.role: row for row in report.rows}
    embedded = Patterns().images.reshape(-1, 64) / 255 @ weights
    unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    cosines, labels = unit @ unit.T, Patterns().labels
    upper = np.triu(np.ones_like(cosines, bool), 1)
    same = labels[:, None] == labels[None]
    genuine, impostor = cosines[upper & same], np.sort(cosines[upper & ~same])[::-1]
    assert rows["fp32"].conditions["genuine_pairs"] == len(genuine) == CLASSES * 6
    assert rows["fp32"].conditions["impostor_pairs"] == len(impostor)
    threshold = impostor[len(impostor) // 100 - 1]  # the k-th highest of n impostors, k = floor(n / 100)
    assert rows["fp32"].numbers["tar@1e-2"].value == pytest.approx(100 * np.mean(genuine > threshold), abs=0.01)
    lowest = impostor[len(impostor) // 1000 - 1]
    assert rows["fp32"].numbers["tar_over_far"].value == pytest.approx(np.mean(genuine > lowest) / 1e-3, abs=0.1)
    assert rows["fp32"].numbers["tar_over_far"].unit == "x"
    assert rows["fp32"].conditions["thresholds"]["1e-2"] == pytest.approx(threshold, abs=1e-5)
    assert rows["fp32"].conditions["thresholds"]["1e-4"] is None
    assert rows["fp32"].numbers["tar@1e-4"].value is None
    assert "impostor pairs" in str(rows["fp32"].numbers["tar@1e-4"].note)

    quantized = Patterns().images.reshape(-1, 64) / 255 @ (np.round(weights * 8) / 8)
    cosine = np.mean(np.sum(unit * quantized / np.linalg.norm(quantized, axis=1, keepdims=True), axis=1))
    assert rows["int8"].numbers["cosine_to_fp32"].value == pytest.approx(cosine, abs=1e-5)
    assert "cosine_to_fp32" not in rows["fp32"].numbers
    assert "oneshot_20way" not in rows["fp32"].numbers

    for role in ("fp32", "int8"):
        numbers = rows[role].numbers
        assert rows[role].faults == ()
        assert rows[role].provider == "CPUExecutionProvider"
        assert (numbers["latency_p50"].n or 0) >= 90
        assert (numbers["latency_p50"].value or 0) > 0
        assert numbers["latency_p99"].usable == ((numbers["latency_p99"].n or 0) >= 662)
        assert (numbers["peak_memory"].value or 0) > 10
        assert numbers["size"].value == (tmp_path / f"{role}.onnx").stat().st_size / 2**20
        assert len(rows[role].conditions["round_medians_ms"]) == 3
        assert len(rows[role].conditions["warmups"]) == 3
    assert rows["fp32"].numbers["parameters"].value == 1024

    assert "cannot be read" in rows["plain"].faults[0]
    assert set(rows["plain"].numbers) == set(rows["fp32"].numbers) | set(rows["int8"].numbers)
    assert not any(number.usable for number in rows["plain"].numbers.values())

    assert report.versions["onnxruntime"]
    assert rows["fp32"].conditions["data"]["images"] == CLASSES * EACH
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert told[-1][1] == 1.0
    for role in ("fp32", "int8"):
        taken = rows[role].traces["latency_ms"]
        assert len(taken) == 101
        assert taken == sorted(taken)
        assert taken[50] == rows[role].numbers["latency_p50"].value
        assert "resumed" not in rows[role].conditions
    path = write_json(report, tmp_path / "report.json")
    assert read_report(path) == report
    assert json.loads(path.read_text())["device"]["cores"] >= 1
    assert judge(report).verdict == "ship"


def test_a_classification_bench_in_which_each_row_fails_alone(tmp_path: Path) -> None:
    weights = classifier()
    good = linear(tmp_path / "fp32.onnx", weights)
    wrong = linear(tmp_path / "int8.onnx", np.roll(weights, 1, axis=1), precision="int8")
    altered = linear(tmp_path / "altered.onnx", weights)
    altered.path.write_bytes(altered.path.read_bytes() + b"\0")
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    larger = PREPROCESSING.model_copy(update={"size": (9, 9)})
    unloadable = artifact.describe(garbage, kind="onnx", role="g", verb="test", preprocessing=PREPROCESSING)
    cases = {
        "fp32": (good, ""),
        "int8": (wrong, ""),
        "narrow": (linear(tmp_path / "narrow.onnx", weights[:, :7]), "7 outputs where the data has 12 classes"),
        "altered": (altered, "sha256 differs"),
        "undescribed": (linear(tmp_path / "undescribed.onnx", weights, preprocessing=None), "no preprocessing"),
        "nan": (linear(tmp_path / "nan.onnx", np.full((64, CLASSES), np.nan)), "NaN"),
        "unloadable": (unloadable, "cannot be read as ONNX"),
        "misfit": (linear(tmp_path / "misfit.onnx", weights, preprocessing=larger), "(8, 8, 1)"),
    }
    rows = {row.role: row for row in run([(role, made) for role, (made, _) in cases.items()]).rows}
    for role, (_, fault) in cases.items():
        assert (fault in rows[role].faults[0]) if fault else (rows[role].faults == ())
        assert rows[role].numbers["latency_p50"].usable == (not fault)
    top1 = rows["fp32"].numbers["top1"]
    assert (top1.value, top1.n, top1.unit) == (100.0, CLASSES * EACH, "%")
    assert top1.low == pytest.approx(100 / (1 + 1.96**2 / (CLASSES * EACH)), abs=0.01)  # Wilson's bound for n of n
    assert rows["fp32"].numbers["top5"].value == 100.0
    over_chance = rows["fp32"].numbers["top1_over_chance"]
    assert over_chance.value == pytest.approx(CLASSES)
    assert over_chance.unit == "x"
    assert over_chance.low == pytest.approx(CLASSES * (top1.low or 0) / 100)
    assert rows["int8"].numbers["top1_over_chance"].value == 0.0
    assert rows["int8"].numbers["top1"].value == 0.0
    assert rows["int8"].numbers["agreement_with_fp32"].value == 0.0


BROKEN_BACKEND = """
import os, signal
from kd2edge.edge.fake import FakeSession
from kd2edge.edge.session import Backend

class Broken(Backend):
    name = "broken"
    def available(self):
        return None
    def build(self, onnx, target, out):
        return onnx
    def open(self, path, target):
        if path.stem == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.stem == "nameless":
            os.kill(os.getpid(), signal.SIGRTMIN + 3)
        if path.stem == "exits":
            os._exit(7)
        if path.stem == "raises":
            raise ValueError("the runtime broke")
        session = FakeSession(dim=12)
        if path.stem == "wanders":
            session.provider = f"process {os.getpid()}"
        return session
"""


def test_a_worker_that_dies_is_a_fault_of_its_row(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN_BACKEND)
    target = TARGET.model_copy(update={"backend": str(plugin)})
    roles = {"killed": "killed by SIGKILL", "exits": "status 7", "raises": "ValueError: the runtime broke"}
    roles |= {"nameless": "killed by signal ", "wanders": "first and on", "fp32": ""}
    report = run([(role, linear(tmp_path / f"{role}.onnx", np.eye(64))) for role in roles], target)
    for row in report.rows:
        assert (roles[row.role] in row.faults[0]) if roles[row.role] else (row.faults == ())


def test_a_model_of_a_fixed_batch(tmp_path: Path) -> None:
    target = TARGET.model_copy(update={"batch": BatchRange(max=5)})
    fixed = linear(tmp_path / "fp32.onnx", classifier(), batch=5)
    (row,) = run([("fp32", fixed)], target, latency=BRIEF.model_copy(update={"batch": 5})).rows
    assert row.faults == ()
    assert row.numbers["top1"].value == 100.0
    (alone,) = run([("fp32", fixed)], target).rows
    assert "takes [5, 1, 8, 8], it was given [1, 1, 8, 8]" in alone.faults[0]


def test_several_files_take_turns_and_each_is_compared_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "run_job", worker.perform)
    items = [(role, linear(tmp_path / f"{role}.onnx", classifier())) for role in ("a", "b", "c")]
    told: list[str] = []
    first, *others = run(items, progress=lambda text, share: told.append(text)).rows
    turns = [text[0] for text in told if "latency" in text]
    assert "".join(turns) == "abcabcabc"
    assert [made.metric for made in first.comparisons] == []
    for row in others:
        (ratio,) = [made for made in row.comparisons if made.metric == "latency_p50"]
        assert (ratio.kind, ratio.versus) == ("ratio", "a")
        assert ratio.value == pytest.approx(
            (row.numbers["latency_p50"].value or 0) / (first.numbers["latency_p50"].value or 1)
        )
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low <= ratio.value <= ratio.high
        (equal,) = [made for made in row.comparisons if made.metric == "top1"]
        assert equal.value == 0


class Filling(InMemory):
    """A disk that is full once a block of the images lies on it: no file may grow further."""

    blocks = 0

    def read(self, index: Ints) -> Images:
        self.blocks += len(index) > 1
        if self.blocks > 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * CHUNK * 64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return super().read(index)


def test_a_disk_that_fills_up_with_the_images_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is mapped has its length at once and finds no room later, which ends the process by SIGBUS."""
    images = np.zeros((3 * CHUNK, 8, 8, 1), np.uint8)
    monkeypatch.setattr(Patterns, "split", lambda source, name: Filling(images, np.arange(len(images)), {}, []))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=r"images\.npy could not be written: "):
            run([])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_concerns_all_rows_is_a_user_error(tmp_path: Path) -> None:
    items = [("fp32", linear(tmp_path / "fp32.onnx", classifier()))]
    with pytest.raises(UserError, match="takes 1 to 32"):
        run(items, latency=BRIEF.model_copy(update={"batch": 64}))
    with pytest.raises(UserError, match="no 'onnxruntim' among"):
        run(items, TARGET.model_copy(update={"backend": "onnxruntim"}))
