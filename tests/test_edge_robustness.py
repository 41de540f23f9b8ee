"""Damaged images end to end: the table against a loop, intervals that hold the truth, faults, and a real bench."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kd2edge.data import InMemory, PairList, corrupt
from kd2edge.edge.bench import bench
from kd2edge.edge.damaged import Damaged, sample
from kd2edge.edge.decoded import decode
from kd2edge.edge.depth import look_into
from kd2edge.edge.gate import judge
from kd2edge.edge.image_means import OF_CHANGES, OF_SHARES, intervals
from kd2edge.edge.kept import kept_for_now
from kd2edge.edge.robustness import Robust, robustness
from kd2edge.edge.trial import Trial
from kd2edge.errors import UserError
from kd2edge.schema import Corruptions, Rule, Suite, quickened
from tests.test_edge_bench import BRIEF, CLASSES, EACH, TARGET, Patterns, classifier, embedder, linear

SOME = Corruptions(kinds=("gaussian_noise", "contrast"), severities=(1, 4), images=30)
Net = Callable[[np.ndarray], np.ndarray]


def net(weights: np.ndarray) -> Net:
    return lambda images: np.asarray(images.reshape(len(images), -1) / 255 @ weights, np.float32)


def data() -> InMemory:
    source = Patterns()
    where = {"place": np.arange(len(source.labels))}
    return InMemory(source.images, source.labels, where, [str(label) for label in range(CLASSES)])


def measured(
    nets: dict[str, Net], room: Path, asked: Corruptions = SOME, output: str = "logits", confidence: float = 0.95
) -> dict[str, Robust]:
    split = data()
    clean = {role: given(split.images) for role, given in nets.items()}
    found = robustness(
        clean, output, split, asked, lambda role, images: nets[role](np.load(images.path)), room, "fp32", confidence
    )
    assert not list(room.iterdir())
    return found


def test_the_table_is_that_of_a_loop(tmp_path: Path) -> None:
    split, weights = data(), classifier()
    blunt = np.round(weights * 3) / 3
    nets = {"fp32": net(weights), "int8": net(blunt)}
    found = measured(nets, tmp_path)
    chosen = sample(split, 30, whole=False)
    assert len(chosen) == len(set(chosen.tolist())) == 30
    truth = split.labels[chosen]
    means: dict[str, dict[str, float]] = {}
    for role, given in nets.items():
        table: dict[str, dict[str, float]] = {}
        for kind in SOME.kinds:
            for severity in SOME.severities:
                images = corrupt(split.images[chosen], kind, severity, chosen)
                right = given(images).argmax(axis=1) == truth
                table.setdefault(kind, {})[str(severity)] = 100 * float(right.mean())
        told = found[role].conditions["corruptions"]
        assert all(told["table"][kind] == pytest.approx(table[kind]) for kind in SOME.kinds)
        assert (told["metric"], told["images"]) == ("top1", 30)
        clean = 100 * np.mean(given(split.images[chosen]).argmax(axis=1) == truth)
        assert told["clean"] == pytest.approx(clean)
        kinds = {kind: np.mean([told["table"][kind][str(s)] for s in SOME.severities]) for kind in SOME.kinds}
        whole = np.mean(list(kinds.values()))
        means[role] = {f"top1@{kind}": value for kind, value in kinds.items()}
        means[role] |= {"top1_corrupted": float(whole), "corruption_drop": float(clean - whole)}
        numbers = found[role].numbers
        assert {name: number.value for name, number in numbers.items()} == pytest.approx(means[role])
        assert (numbers["corruption_drop"].unit, numbers["corruption_drop"].better) == ("points", "lower")
        assert all(number.n == 30 and number.low is not None for number in numbers.values())
    assert means["int8"]["top1_corrupted"] < means["fp32"]["top1_corrupted"]
    assert found["fp32"].comparisons == ()
    for one in found["int8"].comparisons:
        assert (one.versus, one.kind, one.n) == ("fp32", "change", 30)
        assert one.value == pytest.approx(means["int8"][one.metric] - means["fp32"][one.metric])
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high
        assert "30 images" in one.how
    assert {one.metric for one in found["int8"].comparisons} == set(means["int8"])


def test_the_same_net_twice_differs_by_nothing_and_that_is_no_certainty(tmp_path: Path) -> None:
    given = net(classifier())
    for one in measured({"fp32": given, "int8": given}, tmp_path)["int8"].comparisons:
        assert one.value == 0
        assert one.low is not None
        assert one.high is not None
        assert one.low < 0 < one.high


def test_a_tar_by_whole_identities_without_an_interval(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal((64, 16))
    robust = measured({"fp32": net(weights)}, tmp_path, output="embedding")["fp32"]
    chosen = sample(data(), 30, whole=True)
    assert set(np.unique(data().labels[chosen], return_counts=True)[1].tolist()) == {EACH}
    assert len(chosen) == 28  # seven characters, an eighth would be too many
    drop = robust.numbers["corruption_drop"]
    assert robust.conditions["corruptions"]["metric"] == "tar@1e-3"
    assert robust.numbers["tar@1e-3_corrupted"].value is None  # 336 impostor pairs are too few for 1e-3
    assert "impostor pairs" in str(drop.note)
    whole = measured({"fp32": net(weights)}, tmp_path, Corruptions(kinds=("jpeg",), severities=(1,)), "embedding")
    number = whole["fp32"].numbers["tar@1e-3@jpeg"]
    assert number.value is not None
    assert number.low is None
    assert "no interval" in str(number.note)
    assert whole["fp32"].conditions["corruptions"]["images"] == CLASSES * EACH


def test_two_identities_at_the_least() -> None:
    assert len(sample(data(), 1, whole=True)) == 2 * EACH
    assert sample(data(), 10_000, whole=False).tolist() == list(range(CLASSES * EACH))


def test_a_file_that_fails_on_damaged_images_fails_alone(tmp_path: Path) -> None:
    good, calls = net(classifier()), 0

    def dark(images: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return good(images) if calls < 3 else np.full((len(images), CLASSES), np.nan, np.float32)

    found = measured({"fp32": good, "int8": dark}, tmp_path)
    assert found["int8"].numbers == {}
    assert "NaN" in str(found["int8"].fault)
    assert "gaussian noise" in str(found["int8"].fault)
    assert found["fp32"].fault is None
    split = data()
    silent = robustness(
        {"int8": good(split.images)}, "logits", split, SOME, lambda role, images: None, tmp_path, "fp32"
    )
    assert silent == {}


def test_a_damaged_split_is_read_in_any_order() -> None:
    split, chosen = data(), np.array([3, 9, 30, 41])
    damaged = Damaged(split, chosen, "shot_noise", 2)
    assert damaged.labels.tolist() == split.labels[chosen].tolist()
    assert damaged.groups["place"].tolist() == chosen.tolist()
    whole = damaged.read(np.arange(4))
    np.testing.assert_array_equal(damaged.read(np.array([2, 0, 2])), whole[[2, 0, 2]])
    np.testing.assert_array_equal(damaged.read(np.array([1])), corrupt(split.images[[9]], "shot_noise", 2, chosen[1:2]))


@pytest.mark.parametrize(("imaginary", "values"), [(OF_SHARES, (0.0, 100.0)), (OF_CHANGES, (-100.0, 0.0, 100.0))])
def test_intervals_hold_the_true_mean(imaginary: tuple[float, ...], values: tuple[float, ...]) -> None:
    random, held = np.random.default_rng(0), 0
    chances = np.array([0.1, 0.9]) if len(values) == 2 else np.array([0.04, 0.93, 0.03])
    truth = float(chances @ np.array(values))
    drawn = random.choice(values, p=chances, size=(150, 80))
    for column in drawn:
        ((low, high),) = (found for found in intervals(column[:, None], imaginary, 0.9) if found is not None)
        held += low <= truth <= high
        assert low <= column.mean() <= high
    assert held >= 123  # P(122 or fewer of 150 at 90 %) is 0.1 %


def test_ten_images_that_are_all_right_are_no_certainty() -> None:
    ((low, high),) = (found for found in intervals(np.full((10, 1), 100.0), OF_SHARES, 0.95) if found is not None)
    assert low < 70  # Clopper and Pearson have 69.2
    assert high == 100


def test_a_suite_that_cannot_be(tmp_path: Path) -> None:
    for wrong in ({"severities": (0,)}, {"severities": ()}, {"kinds": ("fog",)}, {"kinds": ("jpeg", "jpeg")}):
        with pytest.raises(ValidationError):
            Corruptions.model_validate(wrong)
    split = data()
    split.protocol = PairList(np.array([[0, 1]]), np.array([True]))
    with pytest.raises(UserError, match="protocol of its own"):
        robustness({}, "embedding", split, SOME, lambda role, images: None, tmp_path, "fp32")


RISE = Rule(
    metric="corruption_drop", of="int8", versus="fp32", rise_at_most=30, why="INT8 may be a little more brittle"
)


def suite(**fields: Any) -> Suite:
    return Suite(about="brief", latency=BRIEF, rules=(RISE,), **fields)


def test_quick_damages_fewer_images() -> None:
    assert quickened(suite(corruptions=Corruptions())).corruptions == Corruptions(images=256)
    assert quickened(suite(corruptions=SOME)).corruptions == SOME


def test_a_bench_with_all_of_it(tmp_path: Path) -> None:
    """ONNX Runtime for real: numbers, comparisons, traces and regressions are there, and a rule rests on them."""
    weights = classifier()
    files = {"fp32": linear(tmp_path / "fp32.onnx", weights)}
    files["int8"] = linear(tmp_path / "int8.onnx", np.round(weights * 3) / 3, precision="int8")
    asked = suite(corruptions=Corruptions(kinds=("contrast",), severities=(2,)))
    report = bench(list(files.items()), TARGET, "here", asked, "brief", Patterns())
    fp32, int8 = report.rows
    split, kept = data(), np.arange(CLASSES * EACH)
    images = corrupt(split.images, "contrast", 2, kept)
    marks = {}
    for row, given in ((fp32, weights), (int8, np.round(weights * 3) / 3)):
        assert row.faults == ()
        right = net(given)(images).argmax(axis=1) == split.labels
        marks[row.role] = 100 * right.mean()
        assert row.numbers["top1@contrast"].value == pytest.approx(marks[row.role])
        assert row.conditions["corruptions"]["table"] == {"contrast": {"2": pytest.approx(marks[row.role])}}
        assert {"ece", "brier", "nll"} <= set(row.numbers)
        assert {"confusion", "per_class", "reliability"} <= set(row.traces)
    (change,) = (one for one in int8.comparisons if one.metric == "top1_corrupted")
    assert change.value == pytest.approx(marks["int8"] - marks["fp32"])
    (finding,) = judge(report).findings
    assert (finding.low, finding.high) != (None, None)
    assert int8.numbers["worst_class_drop"].value is None  # four images a class
    broken = net(weights)(split.images).argmax(axis=1) == split.labels
    broken &= net(np.round(weights * 3) / 3)(split.images).argmax(axis=1) != split.labels
    assert len(report.regressions) == min(12, broken.sum()) > 0
    assert {(one.role, one.versus) for one in report.regressions} == {("int8", "fp32")}


def test_pairs_are_shown_unless_the_suite_says_no(tmp_path: Path) -> None:
    """And the curve of all pairs is there to be drawn."""
    split, weights = data(), np.random.default_rng(1).standard_normal((64, 16))
    nets = {"fp32": weights, "int8": np.round(weights)}
    with kept_for_now() as kept:
        images = decode(split, tmp_path / "images.npy")
        trials = []
        for role, given in nets.items():
            file = embedder(tmp_path / f"{role}.onnx", given, precision=role)
            trials.append(Trial(role, file, TARGET, kept, images, outputs=net(given)(split.images)))
            trials[-1].conditions["thresholds"] = {"1e-2": 0.9}
        shown, hidden = (
            look_into(trials, suite(regressions=showing), split, "fp32", 0.95, lambda text, share: None)
            for showing in (True, False)
        )
    assert all(len(one.images) == 2 and "threshold 0.90" in one.said for one in shown)
    assert 0 < len(shown) <= 12
    assert hidden == ()
    assert len(trials[1].traces["roc"]["far"]) == len(trials[1].traces["roc"]["tar"]) > 10
    assert trials[1].traces["roc"]["tar"] == sorted(trials[1].traces["roc"]["tar"])
