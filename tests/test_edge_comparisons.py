"""Rows compared by what both were measured on: wiring, signs and units, coverage of a known truth, what has none."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest

from kd2edge import stats
from kd2edge.data import InMemory, PairList, Split, Templates
from kd2edge.edge import accuracy, asked
from kd2edge.edge.clustered import tar
from kd2edge.edge.comparisons import Measured, comparisons
from kd2edge.edge.drift import drift
from kd2edge.edge.operating import Operating, Point, far_of
from kd2edge.metrics import IdentityTar, accepted_at, cosines, distances, verify
from kd2edge.report.model import Comparison, Number
from kd2edge.schema import Rule, Suite

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def rule(metric: str, of: str = "int8", versus: str | None = "fp32", **bound: Any) -> Rule:
    return Rule.model_validate(
        {"metric": metric, "of": of, "versus": versus, "why": "test"} | (bound or {"drop_at_most": 1})
    )


def suite(*rules: Rule, **fields: Any) -> Suite:
    return Suite(about="test", rules=rules, **fields)


def of_labels(labels: Ints, classes: int | None = None) -> InMemory:
    count = int(labels.max()) + 1 if classes is None else classes
    return InMemory(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, {}, [str(label) for label in range(count)])


def one(found: dict[str, tuple[Comparison, ...]], metric: str, role: str = "int8") -> Comparison:
    (made,) = [comparison for comparison in found[role] if comparison.metric == metric]
    return made


def ends(found: Comparison) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def people(seed: int, identities: int = 40, each: int = 4, noise: float = 0.5) -> tuple[Floats, Floats, Ints]:
    """Embeddings by a model, by a worse one, and labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(identities), each)
    before = random.standard_normal((identities, 12))[labels] + 0.7 * random.standard_normal((len(labels), 12))
    return before.astype(np.float32), (before + noise * random.standard_normal(before.shape)).astype(np.float32), labels


def embedding(outputs: Floats, split: Split, fars: tuple[float, ...] = (), **more: Any) -> Measured:
    numbers, conditions = accuracy.score(outputs, split, "embedding", fars=fars)
    return Measured(numbers, "embedding", outputs, conditions=conditions, **more)


def test_images_are_compared_one_by_one() -> None:
    labels = np.arange(300) % 6
    before, after = np.eye(6, dtype=np.float32)[labels], np.eye(6, dtype=np.float32)[labels]
    before[:10], after[6:37] = np.roll(before[:10], 1, 1), np.roll(after[6:37], 1, 1)  # 27 lost, 6 won
    split = of_labels(labels)
    rows = {
        role: Measured(accuracy.score(logits, split, "logits")[0], "logits", logits)
        for role, logits in (("fp32", before), ("int8", after))
    }
    found = comparisons(suite(rule("top1"), rule("top1", rise_at_most=0)), rows, split, "fp32", 0.98)
    top1 = one(found, "top1")  # two rules and the reference ask for it: once
    assert (top1.versus, top1.kind, top1.n, found["fp32"]) == ("fp32", "change", 300, ())
    assert top1.value == pytest.approx(100 * (6 - 27) / 300)
    low, high = stats.drop_interval(27, 6, 300, 0.98)
    assert ends(top1) == pytest.approx((-100 * high, -100 * low))
    chance = stats.mcnemar(27, 6).mid_p
    assert top1.how == f"Tango's score interval over 300 images: 27 lost, 6 won; McNemar's mid-p is {chance:.2g}"
    same = comparisons(suite(), {"fp32": rows["fp32"], "int8": rows["fp32"]}, split, "fp32")
    assert one(same, "top1").value == 0
    assert ends(one(same, "top1"))[0] < 0 < ends(one(same, "top1"))[1]


def test_all_pairs_are_compared_at_the_same_draws() -> None:
    before, after, labels = people(0)
    split = of_labels(labels)
    rows = {"fp32": embedding(before, split), "int8": embedding(after, split)}
    rules = (rule("tar@1e-2"), rule("tar@1e-2", ratio_at_most=1), rule("tar@1e-2", of="fp32", versus="int8"))
    found = comparisons(suite(*rules), rows, split, "fp32", 0.9)
    worth, was = (verify(given, labels, (1e-2,)).tar[1e-2] for given in (after, before))
    change, ratio = found["int8"]
    assert (change.kind, ratio.kind, change.n, change.how) == (
        "change",
        "ratio",
        40,
        "2,000 resamples of 40 identities",
    )
    assert change.value == pytest.approx(100 * (worth - was))
    assert ratio.value == pytest.approx(worth / was)
    tars = [IdentityTar(given, labels, (1e-2,)) for given in (after, before)]
    expected = stats.bootstrap(lambda weights: tars[0](1e-2, weights) - tars[1](1e-2, weights), 40).interval(0.9)
    assert expected is not None
    assert ends(change) == pytest.approx([100 * end for end in expected])
    assert ends(change)[1] < 0
    assert ends(ratio)[1] < 1
    back = one(found, "tar@1e-2", "fp32")
    assert (back.value, *ends(back)) == pytest.approx((-change.value, -ends(change)[1], -ends(change)[0]))


def test_equal_rows_differ_by_no_more_than_so_many_people_can_tell() -> None:
    before, _, labels = people(1)
    split = of_labels(labels)
    row = embedding(before, split)
    rules = suite(rule("tar@1e-2"), rule("tar@1e-2", ratio_at_most=1))
    same, ratio = comparisons(rules, {"fp32": row, "int8": row}, split, "fp32")["int8"]
    low, high = stats.drop_interval(0, 0, 40)
    assert same.value == 0
    assert ends(same) == pytest.approx((100 * low, 100 * high))
    assert (ratio.value, ratio.low, ratio.high) == (1, None, None)


def test_a_known_difference_is_within_the_interval_as_often_as_said() -> None:
    """The truth is that of 1,500 identities; 80 samples of 50 of them."""
    before, after, labels = people(2, identities=1500)
    truth = verify(after, labels, (1e-2,)).tar[1e-2] - verify(before, labels, (1e-2,)).tar[1e-2]
    covered = 0
    for turn in range(80):
        own, worse, who = people(100 + turn, identities=50)
        ours, theirs = (tar(given, who, (1e-2,))[1e-2] for given in (worse, own))
        low, high = stats.bootstrap(ours.against(theirs).statistic, 50, resamples=200).interval(0.9) or (0, 0)
        covered += low <= truth <= high
    assert binomtest(covered, 80, 0.9).pvalue > 0.005, covered


def test_the_number_has_an_interval_where_a_rule_asks_for_it() -> None:
    before, _, labels = people(3)
    split = of_labels(labels)
    wide, narrow = (accuracy.score(before, split, "embedding", c, (1e-2, 1e-3))[0] for c in (0.99, 0.8))
    plain = accuracy.score(before, split, "embedding")[0]
    for name in ("tar@1e-2", "tar@1e-3", "tar_over_far"):
        low, value, high = wide[name].low, wide[name].value, wide[name].high
        assert low is not None
        assert high is not None
        assert value == plain[name].value
        assert low < (narrow[name].low or 0) < (value or 0) < (narrow[name].high or 0) < high
        assert wide[name].note == f"{stats.enough(0.99):,} resamples of 40 identities"
        assert plain[name].low is None
        assert "no rule asks" in str(plain[name].note)
    assert (wide["tar_over_far"].low or 0) * 0.1 == pytest.approx(wide["tar@1e-3"].low)


def listed(seed: int, named: bool = True) -> tuple[Floats, Floats, InMemory]:
    before, after, labels = people(seed)
    split = of_labels(labels) if named else of_labels(labels, 0)
    place = np.arange(len(labels))
    pairs = np.stack([np.stack([place, place ^ 1], 1), np.stack([place, (place + 28) % len(place)], 1)], 1)
    split.protocol = PairList(pairs.reshape(-1, 2), np.tile([True, False], len(labels)), folds=4)
    return before, after, split


FROZEN = Operating(Point("1e-2", 0.4), Point("1e-2", 0.4))
LISTED = ("pair_accuracy", "pair_tar@1e-2", "pair_far_at_fp32_threshold", "pair_frr_at_fp32_threshold")
OVER_ALL = ("far_at_fp32_threshold", "frr_at_fp32_threshold", "tar@1e-2")


def drifted(outputs: Floats, split: Split) -> Measured:
    row = embedding(outputs, split)
    numbers, conditions = drift(outputs, split, FROZEN)
    return Measured({**row.numbers, **numbers}, "embedding", outputs, (), {**row.conditions, **conditions})


def test_listed_pairs_and_frozen_thresholds_are_compared_by_who_is_on_them() -> None:
    before, after, split = listed(4)
    rows = {"fp32": drifted(before, split), "int8": drifted(after, split)}
    found = comparisons(suite(*(rule(metric) for metric in LISTED + OVER_ALL)), rows, split, "fp32")
    for metric in LISTED + OVER_ALL:
        made, numbers = one(found, metric), [rows[role].numbers[metric] for role in ("int8", "fp32")]
        assert made.value == pytest.approx((numbers[0].value or 0) - (numbers[1].value or 0))
        assert ends(made)[0] <= made.value <= ends(made)[1]
        assert made.n == 40
        assert made.how == f"2,000 resamples of 40 {'subjects' if metric in LISTED else 'identities'}"
        low, high = numbers[0].low, numbers[0].high
        assert low is None if metric == "tar@1e-2" else low is not None and high is not None and low <= high
    assert one(found, "pair_frr_at_fp32_threshold").value > 0
    assert isinstance(split.protocol, PairList)
    alike = cosines(distances(after, split.protocol.pairs))
    frr = 1 - accepted_at(0.4, alike, split.protocol.same).tar
    assert rows["int8"].numbers["pair_frr_at_fp32_threshold"].value == pytest.approx(100 * frr)


def test_other_thresholds_or_nobodys_pairs_do_not_compare() -> None:
    before, after, split = listed(4)
    rows = {"fp32": drifted(before, split), "int8": drifted(after, split)}
    moved = Measured(rows["int8"].numbers, "embedding", after, (), {**rows["int8"].conditions, "fp32_threshold": 0.3})
    frozen = suite(rule("frr_at_fp32_threshold"), rule("pair_frr_at_fp32_threshold"), rule("far_at_fp32_threshold"))
    assert len(comparisons(frozen, rows, split, "fp32")["int8"]) == 3
    assert comparisons(frozen, rows | {"int8": moved}, split, "fp32")["int8"] == ()
    rules = suite(*(rule(metric) for metric in LISTED + OVER_ALL))
    before, after, split = listed(4, named=False)
    rows = {"fp32": drifted(before, split), "int8": drifted(after, split)}
    assert comparisons(rules, rows, split, "fp32")["int8"] == ()
    assert rows["int8"].numbers["pair_far_at_fp32_threshold"].low is None


def test_templates_are_compared_by_template() -> None:
    before, after, labels = people(5, identities=60)
    split, place = of_labels(labels), np.arange(len(labels))
    template = labels * 2 + place % 2
    pairs = np.concatenate(
        [
            np.stack([2 * p + [0] * 60, 2 * q + [1] * 60], 1)
            for p, q in ((np.arange(60), (np.arange(60) + k) % 60) for k in range(8))
        ]
    )
    same = pairs[:, 0] // 2 == pairs[:, 1] // 2
    split.protocol = Templates(template, place, np.ones(len(place), np.float32), pairs, same)
    rows = {"fp32": embedding(before, split), "int8": embedding(after, split)}
    made = one(comparisons(suite(rule("tar@1e-2"), rule("rank1")), rows, split, "fp32"), "tar@1e-2")
    assert (made.n, made.how) == (120, "2,000 resamples of 120 templates")
    assert ends(made)[0] <= made.value <= ends(made)[1]


def test_what_a_suite_asks_for() -> None:
    assert asked.level(suite()) == 0.95
    rules = [rule("size", of="int8"), rule("size", of="int8"), rule("size", of="plain")]
    assert asked.level(suite(*rules)) == 0.95
    rules += [rule("size", of="fp16", advice=True, drop_at_most=1), rule("size", of="fp32", versus=None, at_most=1)]
    assert asked.level(suite(*rules, confidence=0.9)) == pytest.approx(0.95)
    assert asked.fars(suite(rule("tar@1e-4"), rule("tar_over_far"), rule("pair_tar@1e-2"), rule("tar@x"))) == (
        1e-4,
        1e-3,
    )
    assert [far_of(name) for name in ("tar@1e-3", "tar", "tar@0", "tar@nan", "tar@2", "top1@blur")] == [1e-3] + 5 * [
        None
    ]
    beside = rule("tar@2e-3", advice=True, drop_at_most=1)  # its number would be named tar@1e-3
    assert asked.fars(suite(rule("tar@1e-3"), beside)) == (1e-3,)
    with pytest.raises(ValueError, match="greater than"):
        suite(confidence=0.5)


def test_rows_and_numbers_that_are_missing_are_left_out() -> None:
    before, after, labels = people(6)
    split = of_labels(labels)
    gone = {"tar@1e-2": Number(value=None, unit="%"), "size": Number(value=1.0, unit="MiB")}
    rows = {"fp32": embedding(before, split), "int8": Measured(gone, "embedding", after)}
    rules = (rule("tar@1e-2"), rule("size"), rule("eer"), rule("tar@1e-2", versus="teacher"), rule("cosine_to_fp32"))
    assert comparisons(suite(*rules), rows, split, "fp32") == {"fp32": (), "int8": ()}
    others = {"tar@1e-2": Number(value=1.0, unit="x")}
    rows["int8"] = Measured(others, "embedding", after)
    assert comparisons(suite(rule("tar@1e-2")), rows, split, "fp32")["int8"] == ()
    assert comparisons(suite(), {}, split, "fp32") == {}


def test_faulty_outputs_and_single_identities_never_crash() -> None:
    before, after, labels = people(7)
    number = {"tar@1e-2": Number(value=1.0, unit="%"), "top1": Number(value=1.0, unit="%")}
    nan = np.full_like(before, np.nan)
    for output in ("embedding", "logits"):
        rows = {role: Measured(number, output, given) for role, given in (("fp32", before), ("int8", nan))}
        assert comparisons(suite(rule("tar@1e-2")), rows, of_labels(labels % 12), "fp32")["int8"] == ()
    rows = {"fp32": Measured(number, "embedding", before), "int8": Measured(number, "embedding", after)}
    assert comparisons(suite(rule("tar@1e-2")), rows, of_labels(np.zeros(160, np.int64)), "fp32")["int8"] == ()
