"""What stands behind the numbers: calibration's intervals, the worst class, traces and regressions, by other means."""

import base64
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from kd2edge import stats
from kd2edge.data import InMemory, PairList, Split, Templates
from kd2edge.edge import regressions, traces
from kd2edge.edge.calibrated import calibrated
from kd2edge.edge.classes import worst_class
from kd2edge.edge.operating import Operating, Point
from kd2edge.report.model import Number

NOBODY = Operating(None, None)


def classes(counts: list[int], size: int = 8, channels: int = 1) -> InMemory:
    """So many images of each class, all of them noise."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(5).integers(0, 256, (len(labels), size, size, channels), dtype=np.uint8)
    return InMemory(images, labels, {}, [f"class {number}" for number in range(len(counts))])


def choosing(chosen: np.ndarray, classes: int, sure: float = 4.0) -> np.ndarray:
    """Logits float32 of a model that is as sure of each choice."""
    return np.asarray(sure * np.eye(classes)[chosen], np.float32)


def decoded(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


# calibration


def honest(n: int, seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two classes, and labels drawn from them; at another temperature they are wrong by a known amount."""
    random = np.random.default_rng(seed)
    p = random.uniform(0.5, 1, n)
    labels = (random.uniform(size=n) > p).astype(np.int64)
    return np.asarray(np.log(np.column_stack([p, 1 - p])) / temperature, np.float32), labels


def test_the_interval_of_the_calibration_error_holds_the_truth() -> None:
    """The plain value is too high by the noise of its bins; of 60 sets of a net twice too sure some 57 hold the gap."""
    p = np.linspace(0.5, 1, 100_001)
    gap = 100 * np.mean(p**2 / (p**2 + (1 - p) ** 2) - p)
    found = [calibrated(*honest(400, seed, 0.5))["ece"] for seed in range(60)]
    held = [one.low <= gap <= one.high for one in found if one.low is not None and one.high is not None]
    assert len(held) == 60
    assert sum(held) >= 52  # P(51 or fewer of 60 at 95 %) is 0.2 %
    assert all(one.value is not None and (one.low or 0) <= one.value <= (one.high or 0) for one in found)


def test_no_calibration_error_is_not_told_to_be_one() -> None:
    """What is seen of an honest net is noise: of 60 sets of 300 images some 58 say that there may be no error."""
    found = [calibrated(*honest(300, seed))["ece"] for seed in range(60)]
    assert min(one.value or 0 for one in found) > 1
    assert sum(one.low == 0 for one in found) >= 55  # P(54 or fewer of 60 at 97.5 %) is 0.4 %


def test_calibrated_numbers() -> None:
    logits, labels = honest(600, 0)
    numbers = calibrated(logits, labels, confidence=0.99)
    p = np.exp(logits[:, 0].astype(float))
    assert numbers["brier"].value == pytest.approx(2 * np.mean(((labels == 0) - p) ** 2), abs=1e-6)
    assert numbers["nll"].value == pytest.approx(-np.mean(np.log(np.where(labels == 0, p, 1 - p))), abs=1e-6)
    assert {number.better for number in numbers.values()} == {"lower"}
    assert {number.n for number in numbers.values()} == {600}
    losses = -np.log(np.where(labels == 0, p, 1 - p))
    half = 2.576 * losses.std() / 600**0.5
    assert numbers["nll"].high == pytest.approx(losses.mean() + half, abs=0.3 * half)
    assert numbers["nll"].low == pytest.approx(losses.mean() - half, abs=0.3 * half)
    assert "equal mass" in str(numbers["ece"].note)
    assert calibrated(logits[:99], labels[:99])["ece"].low is None


# classes


def test_the_worst_class_and_an_interval_for_the_largest_true_loss() -> None:
    split = classes([100, 50, 19, 40])
    before = split.labels.copy()
    before[:4] = 1  # FP32 misreads four of class 0
    after = split.labels.copy()
    after[2:12] = 3  # INT8 has two of these right, loses eight more
    after[100:103] = 0
    after[150:169] = 0  # all of a class of 19 images
    numbers, conditions = worst_class(choosing(after, 4), choosing(before, 4), split, 0.9)
    found = numbers["worst_class_drop"]
    intervals = [100 * np.array(stats.drop_interval(*of, 1 - 0.1 / 3)) for of in ((8, 2, 100), (3, 0, 50), (0, 0, 40))]
    assert (found.value, found.unit, found.n, found.better) == (6.0, "points", 190, "lower")
    assert found.low == pytest.approx(max(low for low, _ in intervals))
    assert found.high == pytest.approx(max(high for _, high in intervals))
    assert found.high == pytest.approx(intervals[1][1])  # class 1 is of fewer images, and less is known of it
    assert "class 0" in str(found.note)
    told = conditions["worst_class"]
    assert (told["class"], told["lost"], told["won"], told["n"], told["of_classes"]) == ("class 0", 8, 2, 100, 3)
    assert (told["low"], told["high"]) == pytest.approx(tuple(intervals[0]))
    assert {type(value) for value in told.values()} == {str, int, float}  # it goes into JSON, and onto the page


def test_a_worst_class_by_chance_settles_nothing() -> None:
    """Ten classes of 30 images that each lose 2 points: the worst seems to lose far more, and its interval says so."""
    split, random = classes([30] * 10), np.random.default_rng(0)
    held, seemed = 0, []
    for _ in range(60):
        lost = random.uniform(size=300) < 0.02
        after = np.where(lost, (split.labels + 1) % 10, split.labels)
        found = worst_class(choosing(after, 10), choosing(split.labels, 10), split)[0]["worst_class_drop"]
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        seemed.append(found.value)
        held += found.low <= 2 <= found.high
        assert found.low <= found.value <= found.high
    assert np.mean(seemed) > 5
    assert held >= 57


def test_no_class_is_large_enough() -> None:
    split = classes([19, 5])
    logits = choosing(split.labels, 2)
    numbers, conditions = worst_class(logits, logits, split)
    assert numbers["worst_class_drop"].value is None
    assert "20 images" in str(numbers["worst_class_drop"].note)
    assert conditions == {}


# traces


def test_a_confusion_matrix_and_recalls() -> None:
    split = classes([3, 2, 0, 4])
    chosen = np.array([0, 0, 1, 1, 3, 3, 3, 3, 0])
    found = traces.of_logits(choosing(chosen, 4), split)
    assert found["confusion"]["counts"] == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 3]]
    assert found["confusion"]["classes"] == split.classes
    assert "confused" not in found
    assert found["per_class"]["classes"] == ["class 1", "class 0", "class 3"]
    assert found["per_class"]["n"] == [2, 3, 4]
    assert found["per_class"]["recall"] == pytest.approx([50, 200 / 3, 75])
    sure = np.exp(4) / (np.exp(4) + 3)
    assert found["reliability"] == {"confidence": [pytest.approx(sure)], "accuracy": [pytest.approx(6 / 9)], "n": [9]}


def test_many_classes_have_their_most_frequent_confusions() -> None:
    split = classes([6] * 230)
    random = np.random.default_rng(2)
    chosen = np.where(random.uniform(size=len(split)) < 0.5, random.integers(0, 4, len(split)), split.labels)
    chosen[:5] = 7
    found = traces.of_logits(choosing(chosen, 230), split)
    mistakes = Counter((t, c) for t, c in zip(split.labels.tolist(), chosen.tolist(), strict=True) if t != c)
    expected = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:20]
    assert found["confused"] == [[f"class {t}", f"class {c}", count] for (t, c), count in expected]
    assert found["confused"][0] == ["class 0", "class 7", 5]
    assert len(found["per_class"]["classes"]) == 200
    assert found["per_class"]["recall"] == sorted(found["per_class"]["recall"])


def by_hand(scores: np.ndarray, same: np.ndarray, far: float) -> float:
    """The share of genuine scores above the k-th highest impostor, k = floor(far x impostors)."""
    impostors = np.sort(scores[~same])[::-1]
    rank = int(np.floor(far * len(impostors) + 1e-9))
    return float("nan") if rank == 0 else float(np.mean(scores[same] > impostors[rank - 1]))


@pytest.mark.parametrize("known", [True, False])
def test_a_roc(known: bool) -> None:
    random = np.random.default_rng(1)
    split: Split = classes([6] * 12)
    embeddings = np.asarray(random.standard_normal((12, 8))[split.labels] + random.standard_normal((72, 8)), np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    one, other = np.triu_indices(72, 1)
    if not known:
        listed = random.permutation(len(one))[:900]
        one, other = one[listed], other[listed]
    same = split.labels[one] == split.labels[other]
    if not known:
        split.protocol = PairList(np.column_stack([one, other]), same)
        split.classes = []
    found = traces.of_embeddings(embeddings, split, {})["roc"]
    assert found["far"] == sorted(found["far"])
    assert found["far"][0] < 0.002
    assert found["far"][-1] == 1
    assert len(found["far"]) <= 60
    expected = [by_hand(np.sum(unit[one] * unit[other], axis=1), same, far) for far in found["far"]]
    assert found["tar"] == pytest.approx(expected, abs=1e-9)


def test_a_roc_of_templates_has_the_points_that_were_measured() -> None:
    split = classes([1, 1])
    none = np.zeros(0, np.int64)
    split.protocol = Templates(none, none, np.zeros(0, np.float32), none.reshape(0, 2), none.astype(bool))
    numbers = {name: Number(value=value, unit="%") for name, value in (("tar@1e-4", 80.0), ("tar@1e-6", None))}
    numbers["rank1"] = Number(value=5, unit="%")
    found = traces.of_embeddings(np.zeros((2, 3), np.float32), split, numbers)
    assert found == {"roc": {"far": [1e-4], "tar": [0.8]}}


# regressions


def test_images_that_compression_broke_the_worst_first() -> None:
    split = classes([10, 10, 10])
    right = split.labels
    fp32, int8 = choosing(right, 3), choosing(right, 3)
    fp32[0] = int8[0] = [0, 4, 0]  # both wrong
    int8[3] = [0, 1, 0]  # wrong, hardly
    int8[14] = [0, 0, 6]  # wrong, and sure of it
    int8[25] = [5, 0, 0]
    teacher = choosing(right, 3)
    teacher[25] = [9, 0, 0]  # the teacher is wrong too
    found = regressions.of_classes({"fp32": fp32, "int8": int8}, split, "fp32", ("int8",))
    assert [one.images[0] for one in found] == [regressions._png(split.images[i]) for i in (14, 25, 3)]
    assert all((one.role, one.versus, len(one.images)) == ("int8", "fp32", 1) for one in found)
    assert found[0].said == "fp32: class 1 0.96; int8: class 2 1.00; truth: class 1"
    np.testing.assert_array_equal(decoded(found[0].images[0]), split.images[14, ..., 0])
    taught = regressions.of_classes({"teacher": teacher, "fp32": fp32, "int8": int8}, split, "fp32", ("int8",))
    assert [one.images for one in taught] == [found[0].images, found[2].images]
    assert taught[0].said.startswith("teacher: class 1 0.96; fp32: class 1 0.96; int8: class 2 1.00")
    assert regressions.of_classes({"fp32": fp32}, split, "fp32", ()) == []


def test_at_most_twelve_in_an_order_that_does_not_change() -> None:
    split = classes([20, 20])
    fp32 = choosing(split.labels, 2)
    outputs = {"fp32": fp32, "int8": -fp32, "fp16": -fp32}
    found = regressions.of_classes(outputs, split, "fp32", ("int8", "fp16"))
    assert found == regressions.of_classes(outputs, split, "fp32", ("int8", "fp16"))
    assert [one.images[0] for one in found] == [regressions._png(split.images[i]) for i in range(12)]
    assert {one.role for one in found} == {"int8"}


def test_large_images_are_reduced_and_colours_kept() -> None:
    split = classes([1, 1], size=300, channels=3)
    fp32 = choosing(split.labels, 2)
    (first, _) = regressions.of_classes({"fp32": fp32, "int8": -fp32}, split, "fp32", ("int8",))
    assert decoded(first.images[0]).shape == (128, 128, 3)


def angles(degrees: list[float]) -> np.ndarray:
    turned = np.radians(degrees)
    return np.asarray(np.column_stack([np.cos(turned), np.sin(turned)]), np.float32)


def test_pairs_that_compression_broke() -> None:
    split = classes([2, 2])
    fp32, int8 = angles([0, 20, 90, 100]), angles([0, 70, 95, 110])
    frozen = Operating(Point("1e-3", 0.8), Point("1e-3", 0.8))
    outputs = {"fp32": fp32, "int8": int8}
    rejected, accepted = regressions.of_pairs(outputs, split, "fp32", ("int8",), frozen)
    assert rejected.said == "same: class 0; cosine 0.94 → 0.34, threshold 0.80"
    assert accepted.said == "different: class 0 and class 1; cosine 0.34 → 0.91, threshold 0.80"
    for one, places in ((rejected, (0, 1)), (accepted, (1, 2))):
        assert one.images == tuple(regressions._png(split.images[i]) for i in places)
    assert regressions.of_pairs(outputs, split, "fp32", ("int8",), NOBODY) == []
    split.protocol, split.classes = PairList(np.array([[2, 1], [0, 3]]), np.array([False, False])), []
    (listed,) = regressions.of_pairs(outputs, split, "fp32", ("int8",), frozen)
    assert listed.said == "different; cosine 0.34 → 0.91, threshold 0.80"
    assert listed.images == tuple(regressions._png(split.images[i]) for i in (2, 1))
