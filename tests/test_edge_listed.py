"""Listed pairs in the bench, with ONNX Runtime for real: mirrored images, drift, subgroups, one answer everywhere.

Jobs are done in this process, but for one test's: that a process of its own changes nothing is known from there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd2edge import artifact
from kd2edge.artifact import Artifact
from kd2edge.data import InMemory, PairList, Source, Split, Templates
from kd2edge.edge import accuracy, jobs, worker
from kd2edge.edge.bench import bench
from kd2edge.edge.drift import drift
from kd2edge.edge.operating import Operating, Point, operating
from kd2edge.metrics import Folds, distances, verify_pairs
from kd2edge.report.model import Report, Row
from kd2edge.schema import Latency, Preprocessing, Suite, Target

PREPROCESSING = Preprocessing(size=(8, 6), channels=1, color="L", mean=(0.0,), std=(1.0,), decoder="none")
BRIEF = Suite(about="brief", latency=Latency(warmup_ms=2, seconds=0.03, min_samples=9), rules=())
PEOPLE, EACH = 30, 4
Floats = npt.NDArray[np.float32]


class People(Source):
    """Each person is a random picture, its images the picture with noise; named, and listed as pairs, both as asked."""

    def __init__(self, named: bool = True, protocol: str = "pairs", **judged: Any) -> None:
        random = np.random.default_rng(0)
        pictures = random.integers(0, 256, (PEOPLE, 1, 8, 6, 1))
        noise = random.integers(-90, 91, (PEOPLE, EACH, 8, 6, 1))
        images = np.clip(pictures + noise, 0, 255).astype(np.uint8).reshape(-1, 8, 6, 1)
        labels = np.repeat(np.arange(PEOPLE), EACH)
        one = np.arange(len(labels))
        genuine, impostor = np.stack([one, one ^ 1], 1), np.stack([one, (one + EACH * 7) % len(one)], 1)
        pairs = np.stack([genuine, impostor], 1).reshape(-1, 2)
        same = np.tile([True, False], len(one))
        self.split_ = InMemory(images, labels, {}, [str(i) for i in range(PEOPLE)] if named else [])
        if protocol == "pairs":
            self.split_.protocol = PairList(pairs, same, **judged)
        if protocol == "templates":
            faceness = np.ones(len(one), np.float32)
            self.split_.protocol = Templates(labels * 2 + one % 2, one, faceness, pairs // EACH * 2 + [0, 1], same)

    @property
    def listed(self) -> PairList:
        assert isinstance(self.split_.protocol, PairList)
        return self.split_.protocol

    def split(self, name: str) -> Split:
        return self.split_

    def preprocessing(self) -> Preprocessing:
        return PREPROCESSING


def embedder(path: Path, weights: Floats, **manifest: Any) -> Artifact:
    """An ONNX file of y = pixels times `weights` [48, D], with its manifest."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    fields = {"kind": "onnx", "role": path.stem, "verb": "test", "preprocessing": PREPROCESSING}
    return artifact.describe(path, **(fields | {"task": "verification", "output": "embedding"} | manifest))


WEIGHTS = np.random.default_rng(1).standard_normal((48, 16)).astype(np.float32)
COARSE = (np.round(WEIGHTS * 1.5) / 1.5).astype(np.float32)


def embedded(split: Split, weights: Floats, flip: bool = False) -> Floats:
    """What the files above compute, in float64 and without a runtime."""
    images = split.read(np.arange(len(split))).astype(np.float64) / 255
    outputs = images.reshape(len(images), -1) @ weights.astype(np.float64)
    if flip:
        outputs += images[:, :, ::-1].reshape(len(images), -1) @ weights.astype(np.float64)
    return outputs.astype(np.float32)


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "processes" not in request.node.name:
        monkeypatch.setattr(jobs, "run_job", worker.perform)


def run(items: list[tuple[str, Artifact]], source: Source, backend: str = "onnxruntime") -> Report:
    target = Target(about="here", backend=backend, flavour="ort-x86", precisions=("fp32", "int8"))
    report = bench(items, target, "here", BRIEF, "brief", source)
    assert [row.faults for row in report.rows] == [()] * len(report.rows)
    return report


def both(folder: Path) -> list[tuple[str, Artifact]]:
    fp32, int8 = embedder(folder / "fp32.onnx", WEIGHTS), embedder(folder / "int8.onnx", COARSE, precision="int8")
    return [("fp32", fp32), ("int8", int8)]


def value(row: Row, name: str) -> float:
    found = row.numbers[name].value
    assert found is not None
    return found


def test_processes_sum_mirrored_images(tmp_path: Path) -> None:
    source = People(flip=True)
    (row,) = run(both(tmp_path)[:1], source).rows
    squared = distances(embedded(source.split_, WEIGHTS, flip=True), source.listed.pairs)
    expected = verify_pairs(1 - squared / 2, source.listed.same, (1e-2,))
    assert row.conditions["pair_thresholds"]["1e-2"] == pytest.approx(expected.threshold[1e-2], abs=1e-6)


@pytest.mark.parametrize(("mode", "flip"), [("exact", False), ("insightface", True)])
def test_listed_pairs_are_judged_on_what_the_file_computes(mode: Any, flip: bool, tmp_path: Path) -> None:
    source = People(mode=mode, flip=flip, folds=5)
    fp32, int8 = run(both(tmp_path), source).rows
    for row, weights in ((fp32, WEIGHTS), (int8, COARSE)):
        outputs = embedded(source.split_, weights, flip)
        squared = distances(outputs, source.listed.pairs)
        folds = Folds(squared, source.listed.same, 5, mode)
        assert value(row, "pair_accuracy") == pytest.approx(100 * folds.accuracies().mean())
        assert ("pair_val@1e-3" in row.numbers) == (mode == "insightface")
        tar = verify_pairs(1 - squared / 2, source.listed.same, (1e-2,))
        assert value(row, "pair_tar@1e-2") == pytest.approx(100 * tar.tar[1e-2])
        assert row.conditions["pair_thresholds"]["1e-2"] == pytest.approx(tar.threshold[1e-2], abs=1e-6)
        assert row.numbers["pair_tar@1e-3"].note == "a FAR of 1e-3 needs more than the 120 listed impostor pairs"
        assert row.conditions.get("flip", False) == flip
        low, high = row.numbers["pair_accuracy"].low, row.numbers["pair_accuracy"].high
        assert low is not None
        assert high is not None
        assert low <= value(row, "pair_accuracy") <= high
        assert "tar@1e-2" in row.numbers  # and all pairs, of the same embeddings


def test_without_names_there_are_the_pairs_alone_and_no_interval(tmp_path: Path) -> None:
    named, alone = (run(both(tmp_path)[:1], People(named)).rows[0] for named in (True, False))
    assert {name for name in named.numbers if name not in alone.numbers} >= {"tar@1e-2", "eer", "tar_over_far"}
    assert value(alone, "pair_accuracy") == value(named, "pair_accuracy")
    assert (alone.numbers["pair_accuracy"].low, alone.numbers["pair_accuracy"].high) == (None, None)
    assert "does not say who is who" in str(alone.numbers["pair_accuracy"].note)
    assert "30 subjects" in str(named.numbers["pair_accuracy"].note)


def test_a_frozen_threshold_next_to_one_chosen_anew(tmp_path: Path) -> None:
    source = People()
    fp32, int8 = run(both(tmp_path), source).rows
    same, pairs = source.listed.same, source.listed.pairs
    before, after = (1 - distances(embedded(source.split_, w), pairs) / 2 for w in (WEIGHTS, COARSE))
    threshold = np.sort(before[~same])[-1]  # the highest of 120 at a FAR of 1e-2
    assert value(int8, "pair_far_at_fp32_threshold") == pytest.approx(100 * np.mean(after[~same] > threshold))
    assert value(int8, "pair_frr_at_fp32_threshold") == pytest.approx(100 * np.mean(after[same] <= threshold))
    assert value(fp32, "pair_far_at_fp32_threshold") == 0
    assert value(fp32, "pair_frr_at_fp32_threshold") == pytest.approx(100 - value(fp32, "pair_tar@1e-2"))
    assert int8.conditions["fp32_pair_threshold"] == fp32.conditions["pair_thresholds"]["1e-2"]
    assert int8.conditions["pair_thresholds"]["1e-2"] != fp32.conditions["pair_thresholds"]["1e-2"]
    # over all pairs: 7,140, of which 180 are genuine
    unit = embedded(source.split_, COARSE)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    upper = np.triu_indices(len(unit), 1)
    alike, genuine = (unit @ unit.T)[upper], np.equal.outer(source.split_.labels, source.split_.labels)[upper]
    frozen = fp32.conditions["thresholds"]["1e-3"]
    assert value(int8, "far_at_fp32_threshold") == pytest.approx(100 * np.mean(alike[~genuine] > frozen))
    assert value(int8, "frr_at_fp32_threshold") == pytest.approx(100 * np.mean(alike[genuine] <= frozen))
    assert (int8.numbers["far_at_fp32_threshold"].n, int8.numbers["frr_at_fp32_threshold"].n) == (6960, 180)


def test_a_threshold_that_a_manifest_keeps_judges_int8_alone(tmp_path: Path) -> None:
    kept = {"operating": {"threshold": 0.5, "far": "1e-3", "flip": False}}
    alone = embedder(tmp_path / "int8.onnx", COARSE, precision="int8", details=kept)
    (row,) = run([("int8", alone)], People()).rows
    outputs = embedded(People().split_, COARSE)
    alike, same = 1 - distances(outputs, People().listed.pairs) / 2, People().listed.same
    assert value(row, "pair_frr_at_fp32_threshold") == pytest.approx(100 * np.mean(alike[same] <= 0.5))
    assert row.conditions["fp32_threshold"] == 0.5
    (flipped,) = run([("int8", alone)], People(flip=True)).rows
    assert "pair_frr_at_fp32_threshold" not in flipped.numbers  # it was found without mirrored images


def test_each_group_has_its_shares_and_what_int8_changed(tmp_path: Path) -> None:
    group = np.arange(240) // 120
    source = People(subgroups={"race": group}, subgroup_names={"race": ["A", "B"]})
    fp32, int8 = run(both(tmp_path), source).rows
    alike, before = (1 - distances(embedded(source.split_, w), source.listed.pairs) / 2 for w in (COARSE, WEIGHTS))
    own, frozen = (row.conditions["pair_thresholds"]["1e-2"] for row in (int8, fp32))
    for name, of in (("A", group == 0), ("B", group == 1)):
        genuine, impostor = alike[of & source.listed.same], alike[of & ~source.listed.same]
        shares = int8.conditions["subgroups"]["race"][name]
        assert shares["tar"] == pytest.approx(100 * np.mean(genuine > own))
        assert shares["far"] == pytest.approx(100 * np.mean(impostor > own))
        at_fp32 = int8.conditions["subgroups_at_fp32_threshold"]["race"][name]
        assert at_fp32["tar"] == pytest.approx(100 * np.mean(genuine > frozen))
        change = int8.conditions["subgroup_changes"]["race"][name]
        lost = np.mean(before[of & source.listed.same] > frozen) - np.mean(genuine > frozen)
        assert change["tar"] == pytest.approx(-100 * lost)
    tars = {name: int8.conditions["subgroups"]["race"][name]["tar"] for name in ("A", "B")}
    assert value(int8, "subgroup_tar") == min(tars.values())
    assert int8.numbers["subgroup_tar"].note == f"least of 2 groups: race {min(tars, key=lambda name: tars[name])}"
    drops = [-one["tar"] for one in int8.conditions["subgroup_changes"]["race"].values()]
    assert value(int8, "subgroup_tar_drop") == pytest.approx(max(drops))
    assert "subgroup_tar_drop" not in fp32.numbers


def test_a_fold_of_one_kind_leaves_the_other_numbers(tmp_path: Path) -> None:
    source = People()
    order = np.argsort(~source.listed.same, kind="stable")
    source.split_.protocol = PairList(source.listed.pairs[order], source.listed.same[order])
    (row,) = run(both(tmp_path)[:1], source).rows
    assert row.numbers["pair_accuracy"].value is None
    assert "Fold 1 of 10 needs pairs of both kinds" in str(row.numbers["pair_accuracy"].note)
    assert row.numbers["pair_tar@1e-2"].usable


PLAIN_BACKEND = """
import numpy as np, onnx
from onnx import numpy_helper
from kd2edge.edge.fake import FakeSession
from kd2edge.edge.session import Backend

class Plain(Backend):
    name = "plain"
    def available(self):
        return None
    def build(self, onnx, target, out):
        return onnx
    def open(self, path, target):
        weights = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])
        session = FakeSession()
        session.infer = lambda x: (x.reshape(len(x), -1).astype(float) @ weights).astype(np.float32)
        return session
"""


def test_every_back_end_gets_the_same_answer_from_the_same_code(tmp_path: Path) -> None:
    """A product in numpy and one in ONNX Runtime: what differs in the seventh digit decides no pair here."""
    plugin = tmp_path / "plain.py"
    plugin.write_text(PLAIN_BACKEND)
    ort, plain = (run(both(tmp_path), People(flip=True), name) for name in ("onnxruntime", str(plugin)))
    for one, other in zip(ort.rows, plain.rows, strict=True):
        assert (one.provider, other.provider) == ("CPUExecutionProvider", "FakeProvider")
        names = [name for name in one.numbers if "pair" in name or "tar@" in name or "fp32" in name]
        assert len(names) >= 9
        for name in names:
            assert other.numbers[name].value == pytest.approx(one.numbers[name].value, abs=1e-5), name


def test_templates_are_judged_by_themselves(tmp_path: Path) -> None:
    (row,) = run(both(tmp_path)[:1], People(protocol="templates")).rows
    assert row.conditions["pairs"] == {"genuine": 120, "impostor": 120}
    assert row.conditions["templates"] == 60
    assert row.numbers["tar@1e-1"].usable
    assert row.numbers["nearest_tar@1e-1"].usable
    assert "more than the 120 impostor pairs" in str(row.numbers["tar@1e-3"].note)
    assert "eer" not in row.numbers
    assert row.conditions["flip"] is True


def test_operating_points_are_at_the_far_in_use_or_the_next_that_is_known() -> None:
    thresholds = {"1e-2": 0.2, "1e-3": 0.3, "1e-4": 0.4}
    points = operating({"thresholds": thresholds, "pair_thresholds": {"1e-2": 0.25, "1e-3": None}})
    assert points == Operating(Point("1e-3", 0.3), Point("1e-2", 0.25))
    assert operating({}) == Operating(None, None)


def test_a_list_and_its_subjects_are_part_of_the_datas_fingerprint(tmp_path: Path) -> None:
    one, other = People(), People()
    other.split_.protocol = PairList(other.listed.pairs[::-1].copy(), other.listed.same[::-1].copy())
    shas = [run(both(tmp_path)[:1], source).rows[0].conditions["data"]["sha256"] for source in (one, one, other)]
    assert shas[0] == shas[1] != shas[2]


def test_the_numbers_of_a_listed_split_come_in_seconds() -> None:
    """6,000 pairs of 4,000 subjects: this bounds nothing but says that 2,000 resamples are affordable in a test."""
    random = np.random.default_rng(0)
    labels = np.arange(8000) % 4000
    centres = random.standard_normal((4000, 16))
    vectors = (centres[labels] + random.standard_normal((8000, 16))).astype(np.float32)
    split = InMemory(np.zeros((8000, 1, 1, 1), np.uint8), labels, {}, ["x"] * 4000)
    genuine = np.stack([np.arange(3000), np.arange(3000) + 4000], 1)
    impostor = np.stack([np.arange(3000), np.arange(3000) + 4100], 1)
    pairs = np.stack([genuine, impostor], 1).reshape(-1, 2)
    split.protocol = PairList(pairs, np.tile([True, False], 3000))
    numbers, _ = accuracy.score(vectors, split, "embedding")
    assert numbers["pair_tar@1e-3"].usable
    assert drift(vectors, split, Operating(None, Point("1e-3", 0.5)))[0].keys() == {
        "pair_far_at_fp32_threshold",
        "pair_frr_at_fp32_threshold",
    }
