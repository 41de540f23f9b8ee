"""Every way in which a number can be bad, against every kind of rule: none ships. Beside it, what is harmless does."""

import pytest

from kd2edge.edge.gate import judge
from kd2edge.schema import Latency
from tests import judged
from tests.judged import RULES, with_conditions, with_number, with_row
from tests.spoilt import (
    BASED,
    BESIDE,
    COMPARED,
    EXACT,
    INF,
    KINDS,
    NAN,
    OWN,
    TIMED,
    VERSUS,
    Spoil,
    around_the_bound,
    bound,
    comparison,
    condition,
    elsewhere,
    ours,
    ours_row,
    suite,
    their_condition,
    their_report,
    their_row,
    their_suite,
    theirs,
    twice,
    whole,
    without,
    without_metric,
)

SIGNED = {"key": "5" * 64, "name": "release"}
DATA = {**judged.DATA, "sha256": "e" * 64}
BAD: dict[str, tuple[set[str], Spoil]] = {
    "no row": (KINDS, without("int8")),
    "no row to compare with": (BESIDE, without("fp32")),
    "no rows": (KINDS, whole(rows=())),
    "the row twice": (KINDS, twice("int8")),
    "the other row twice": (BESIDE, twice("fp32")),
    "no rows in the baseline": (BASED, their_report(rows=())),
    "the baseline's row twice": (BASED, their_report(rows=(judged.row("int8"), judged.row("int8")))),
    "no baseline": (BASED, lambda report, baseline, name: (report, None)),
    "no metric": (KINDS, without_metric),
    "their metric missing": (VERSUS, their_row(numbers={})),
    "null with a note": (KINDS, ours(value=None, note="too few")),
    "null without": (KINDS, ours(value=None)),
    "NaN": (KINDS, ours(value=NAN)),
    "infinite": (KINDS, ours(value=INF)),
    "minus infinite": (KINDS, ours(value=-INF)),
    "their null": (VERSUS, theirs(value=None)),
    "their NaN": (VERSUS, theirs(value=NAN)),
    "their infinite": (VERSUS, theirs(value=INF)),
    "their zero": ({name for name in VERSUS if "ratio_at_most" in RULES[name]}, theirs(value=0.0, low=0.0, high=0.0)),
    "faulty": (KINDS, ours_row(faults=("killed",))),
    "their row faulty": (VERSUS, their_row(faults=("killed",))),
    "no provider": (KINDS, ours_row(provider="")),
    "their row without provider": (VERSUS, their_row(provider="")),
    "another unit": (VERSUS, ours(unit="furlongs")),
    "their unit another": (VERSUS, theirs(unit="")),
    "another provider": (TIMED & VERSUS, ours_row(provider="GPU")),
    "their provider another": (TIMED & VERSUS, their_row(provider="GPU")),
    "other images": (VERSUS, condition(data=DATA)),
    "their images others": (VERSUS, their_condition(data=DATA)),
    "no images known": (
        BASED - EXACT,
        lambda r, b, n: (condition(data=None)(r, b, n)[0], their_condition(data=None)(r, b, n)[1]),
    ),
    "unstable": (TIMED, condition(unstable=True)),
    "not known to be stable": (TIMED, condition(unstable=None)),
    "their row unstable": (TIMED & VERSUS, their_condition(unstable=True)),
    "throttled": (TIMED, condition(throttled=True)),
    "their row throttled": (TIMED & VERSUS, their_condition(throttled=True)),
    "quick": (TIMED, suite(quick=True)),
    "their report quick": (TIMED & BASED, their_suite(quick=True)),
    "unsigned": (KINDS, suite(signed=True)),
    "said to be unsigned": (KINDS, lambda r, b, n: suite(signed=True)(with_conditions(r, "int8", signed=False), b, n)),
    "signed in words only": (KINDS, lambda r, b, n: suite(signed=True)(with_conditions(r, "int8", signed=True), b, n)),
    "signed by no key": (
        KINDS,
        lambda r, b, n: suite(signed=True)(with_conditions(r, "int8", signed={**SIGNED, "key": "ab"}), b, n),
    ),
    "their row unsigned": (BESIDE, lambda r, b, n: suite(signed=True)(with_conditions(r, "int8", signed=SIGNED), b, n)),
    "another device": (TIMED & BASED, elsewhere),
    "no device known": (TIMED & BASED, their_report(device={})),
    "another target": (BASED, their_report(target="u")),
    "another protocol": (TIMED & BASED, their_suite(latency=Latency(seconds=1))),
    "another batch": (TIMED & BASED, their_suite(latency=Latency(batch=8))),
    "more threads": (TIMED & BASED, condition(threads=8)),
    "no interval": (OWN, ours(low=None, high=None)),
    "no interval of theirs": (OWN & VERSUS, theirs(low=None, high=None)),
    "an interval across the bound": (OWN, around_the_bound),
    "their interval across the bound": (OWN & VERSUS, theirs(low=-1e6, high=1e6)),
    "an interval that ends in NaN": (OWN, ours(high=NAN)),
    "an interval that begins in NaN": (OWN, ours(low=NAN)),
    "an interval without end": (OWN, ours(high=INF)),
    "half an interval": (OWN, ours(low=None)),
    "the other half": (OWN, ours(high=None)),
    "ends exchanged": (OWN, ours(low=1e3, high=-1e3)),
    "a value outside its interval": (OWN, ours(low=-3.0, high=-2.0)),
    "their value outside its interval": (OWN & VERSUS, theirs(low=1e3, high=2e3)),
    "a comparison across the bound": (COMPARED, comparison(low=-1e6, high=1e6)),
    "a comparison that ends in NaN": (COMPARED, comparison(high=NAN)),
    "a comparison that begins in NaN": (COMPARED, comparison(low=NAN)),
    "a comparison without end": (COMPARED, comparison(high=INF)),
    "half a comparison": (COMPARED, comparison(low=None)),
    "a comparison exchanged": (COMPARED, comparison(low=1e3, high=-1e3)),
    "a comparison without interval": (COMPARED, comparison(low=None, high=None)),
    "a comparison of no samples": (COMPARED, comparison(n=0)),
    "a comparison of less than none": (COMPARED, comparison(n=-1)),
    "a comparison of other numbers": (COMPARED, comparison(value=0.1)),
    "a comparison that is NaN": (COMPARED, comparison(value=NAN)),
    "a comparison twice": (
        COMPARED,
        lambda r, b, n: (with_row(r, "int8", comparisons=judged.COMPARISONS * 2), b),
    ),
    "numbers that moved since they were compared": (COMPARED, ours(value=1e-3, low=None, high=None)),
    "intervals of too little confidence": (KINDS - EXACT, whole(confidence=0.9)),
    "intervals of no confidence": (KINDS - EXACT, whole(confidence=NAN)),
    "more than certain": (KINDS - EXACT, whole(confidence=1.5)),
    "their intervals of too little confidence": (BASED - EXACT, their_report(confidence=0.9)),
    "a bound that is NaN": (KINDS, bound(NAN)),
    "a bound without end": (KINDS, bound(INF)),
    "no rules": (KINDS, suite(rules=())),
}
CASES = [(way, name) for way, (kinds, _) in BAD.items() for name in RULES if name in kinds]


@pytest.mark.parametrize(("way", "name"), CASES)
def test_nothing_bad_ships(way: str, name: str) -> None:
    verdict = judge(*BAD[way][1](*judged.kind(name), name))
    assert verdict.verdict != "ship", verdict.findings
    assert all(finding.says != "ship" and finding.reason for finding in verdict.findings)


HOLDS = {"no row", "NaN", "faulty", "another unit", "other images", "throttled", "unsigned", "another device",
         "another target", "another protocol", "ends exchanged", "a comparison that ends in NaN", "no baseline",
         "a comparison of no samples", "no rules", "a bound that is NaN", "null with a note"}  # fmt: skip
UNDECIDED = {"unstable", "quick", "an interval across the bound", "a comparison across the bound", "no interval",
             "a comparison without interval", "intervals of too little confidence"}  # fmt: skip


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, name in CASES if way in HOLDS | UNDECIDED])
def test_what_is_broken_holds_and_what_is_unsure_is_undecided(way: str, name: str) -> None:
    expected = "hold" if way in HOLDS else "undecided"
    assert judge(*BAD[way][1](*judged.kind(name), name)).verdict == expected


GOOD: dict[str, tuple[set[str], Spoil]] = {
    "as it is": (KINDS, lambda report, baseline, name: (report, baseline)),
    "no baseline is needed": (KINDS - BASED, lambda report, baseline, name: (report, None)),
    "a note": (KINDS, ours(note="nothing special")),
    "a busier machine": (KINDS, whole(device={**judged.DEVICE, "load": 7.0})),
    "another version": (KINDS, their_report(versions={"onnxruntime": "1.0"})),
    "unstable, but not timed": (KINDS - TIMED, condition(unstable=True, throttled=True)),
    "quick, but not timed": (KINDS - TIMED, suite(quick=True)),
    "another device, but not timed": (BASED - TIMED, elsewhere),
    "another provider, but not timed": (BESIDE - TIMED, their_row(provider="GPU")),
    "signed": (
        KINDS,
        lambda r, b, n: suite(signed=True)(
            with_conditions(with_conditions(r, "int8", signed=SIGNED), "fp32", signed=SIGNED), b, n
        ),
    ),
    "surer": (
        KINDS,
        lambda r, b, n: (r.model_copy(update={"confidence": 0.99}), b.model_copy(update={"confidence": 0.99})),
    ),
    "no comparison, but two intervals that are apart": (
        {"ratio"},
        lambda r, b, n: (with_row(r, "int8", comparisons=()), b),
    ),
    "exact, but with an interval": ({"exact floor"}, ours(low=0.998, high=0.9995)),
    "another row is faulty": (KINDS - BESIDE, lambda r, b, n: (with_row(r, "fp32", faults=("killed",)), b)),
    "another number is missing": (KINDS, lambda r, b, n: (with_number(r, "int8", "eer", value=None), b)),
}


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way, (kinds, _) in GOOD.items() for name in RULES if name in kinds]
)
def test_what_is_harmless_ships(way: str, name: str) -> None:
    report, baseline = judged.kind(name)
    report = with_row(report, "int8", numbers={**judged.row("int8").numbers, "eer": judged.number(3.0, "%")})
    verdict = judge(*GOOD[way][1](report, baseline, name))
    assert verdict.verdict == "ship", verdict.findings


def test_all_kinds_together_ship_until_one_is_bad() -> None:
    report = judged.report(*(judged.rule(**fields) for fields in RULES.values()))
    assert judge(report, judged.report()).verdict == "ship"
    assert judge(with_conditions(report, "int8", throttled=True), judged.report()).verdict == "hold"
