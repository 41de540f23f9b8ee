"""The gate's answers, rule by rule: what it says of an interval and a bound, in words and in numbers."""

import math
from typing import Any

import pytest
from scipy.stats import norm

from kd2edge.edge.gate import judge
from kd2edge.report.model import Comparison, Finding, Number, Report
from tests.judged import COMPARISONS, number, report, row, rule, with_comparison, with_conditions, with_number, with_row

FLOOR: dict[str, Any] = {"metric": "top1", "at_least": 90.0}
DROP: dict[str, Any] = {"metric": "top1", "versus": "fp32", "drop_at_most": 0.5}
RISE: dict[str, Any] = {"metric": "ece", "versus": "fp32", "rise_at_most": 0.5}
RATIO: dict[str, Any] = {"metric": "latency_p50", "versus": "fp32", "ratio_at_most": 0.9}


def found(asked: dict[str, Any], **intervals: Any) -> Finding:
    """What is said of INT8 by one rule; its number, or its comparison with FP32, is changed as told."""
    shown = report(rule(**asked))
    spoil = (
        with_comparison if "versus" in asked else (lambda of, metric, **ends: with_number(of, "int8", metric, **ends))
    )
    (finding,) = judge(spoil(shown, asked["metric"], **intervals)).findings
    return finding


@pytest.mark.parametrize(
    ("asked", "ends", "says", "reason"),
    [
        (FLOOR, (90.0, 93.5), "ship", "top-1 of INT8 is 92.80 % (95 % interval 90.00 to 93.50), at least 90 required"),
        (FLOOR, (89.9, 93.5), "undecided", "(95 % interval 89.90 to 93.50), at least 90 required: about "),
        (FLOOR | {"at_least": 94.0}, (92.0, 93.5), "hold", "at least 94 required"),
        (FLOOR | {"at_least": None, "at_most": 93.5}, (92.0, 93.5), "ship", "at most 93.5 allowed"),
        (FLOOR | {"at_least": None, "at_most": 92.0}, (92.1, 93.5), "hold", "at most 92 allowed"),
        (DROP, (-0.5, 0.1), "ship",
         "INT8 loses 0.2 points of top-1 against FP32 (93.00 → 92.80 %; 95 % interval -0.10 to 0.50), "
         "it may lose at most 0.5"),
        (DROP, (-0.51, 0.1), "undecided", "95 % interval -0.10 to 0.51), it may lose at most 0.5: about "),
        (DROP | {"drop_at_most": 0.1}, (-0.5, -0.11), "hold", "it may lose at most 0.1"),
        (DROP | {"drop_at_most": 0.1}, (-0.5, -0.09), "undecided", "more images would let it hold"),
        (RISE, (-0.1, 0.5), "ship",
         "INT8 gains 0.2 points of ECE against FP32 (2.00 → 2.20 %; 95 % interval -0.10 to 0.50)"),
        (RISE, (-0.1, 0.6), "undecided", "more images would let it ship"),
        (RISE | {"rise_at_most": 0.1}, (0.15, 0.6), "hold", "it may gain at most 0.1"),
        (RATIO, (0.4, 0.9), "ship",
         "INT8 has 0.5x the latency p50 of FP32 (1 → 0.5 ms; 95 % interval 0.4 to 0.9), at most 0.9x allowed"),
        (RATIO, (0.4, 0.95), "undecided", "more stretches of time would let it ship"),
        (RATIO | {"ratio_at_most": 0.3}, (0.4, 0.95), "hold", "at most 0.3x allowed"),
    ],
)  # fmt: skip
def test_an_interval_and_a_bound(asked: dict[str, Any], ends: tuple[float, float], says: str, reason: str) -> None:
    finding = found({key: value for key, value in asked.items() if value is not None}, low=ends[0], high=ends[1])
    assert finding.says == says
    assert reason in finding.reason
    flipped = (-ends[1], -ends[0]) if "drop_at_most" in asked else ends
    assert (finding.low, finding.high) == pytest.approx(flipped)


def test_a_gain_is_told_as_a_gain() -> None:
    better = with_comparison(
        with_number(report(rule(**DROP)), "fp32", "top1", value=92.4), "top1", value=0.4, low=0.1, high=0.7
    )
    (finding,) = judge(better).findings
    assert finding.says == "ship"
    assert "INT8 gains 0.4 points of top-1 against FP32 (92.40 → 92.80 %; 95 % interval 0.10 to 0.70)" in finding.reason
    assert (finding.value, finding.low, finding.high) == pytest.approx((-0.4, -0.7, -0.1))


def test_undecided_says_how_many_more_of_what_and_which_way() -> None:
    """An interval that shrinks as one over the root of n, and clears the bound with a chance of 80 %."""
    finding = found(DROP, low=-0.6, high=0.0)
    reach, chance = norm.ppf(0.975), norm.ppf(0.8)
    more = math.ceil(10_000 * (0.4 * (1 + chance / reach) / 0.3) ** 2) - 10_000
    assert (finding.more, finding.towards) == (more, "ship")
    assert finding.reason.endswith(f": about {more:,} more images would let it ship")
    assert finding.how == "Tango's score interval over 10,000 images: 60 lost, 40 won"
    on_the_bound = found(DROP | {"drop_at_most": 0.2}, low=-0.6, high=0.0)
    assert (on_the_bound.says, on_the_bound.more, on_the_bound.towards) == ("undecided", None, None)
    assert "more images would hardly settle it" in on_the_bound.reason
    assert (
        "more timings would let it ship" in found({"metric": "latency_p99", "at_most": 0.72}, low=0.6, high=0.8).reason
    )


@pytest.mark.parametrize(
    ("metric", "unit", "value", "says"),
    [("size", "MiB", 0.61, "hold"), ("size", "MiB", 0.6, "ship"), ("cosine_to_fp32", "", 0.5, "ship"),
     ("parameters", "", 0.59, "ship"), ("macs", "", 0.7, "hold"), ("peak_memory", "MiB", 0.6, "ship"),
     ("integer_range", "%", 0.7, "hold"), ("top1", "%", 0.5, "undecided"), ("throughput", "img/s", 0.5, "undecided"),
     ("never_heard_of", "", 0.5, "undecided")],
)  # fmt: skip
def test_only_what_has_no_sampling_error_is_judged_by_its_value(
    metric: str, unit: str, value: float, says: str
) -> None:
    rows = row("int8", numbers={metric: number(value, unit)}), row("fp32", numbers={metric: number(1.0, unit)})
    against, alone = rule(metric=metric, versus="fp32", ratio_at_most=0.6), rule(metric=metric, at_most=0.6)
    for finding in judge(report(against, alone, rows=rows)).findings:
        assert finding.says == says
        assert (finding.low, finding.high, finding.more) == (None, None, None)
        assert ("it cannot be told without an interval" in finding.reason) == (says == "undecided")


def test_without_a_comparison_two_intervals_that_are_far_apart_decide() -> None:
    """The same samples' errors go together, so that the interval of two independent ones is on the safe side."""
    asked = rule(metric="rank1", versus="fp32", drop_at_most=1.0)
    (finding,) = judge(report(asked)).findings
    assert finding.says == "ship"
    assert (finding.low, finding.high) == pytest.approx((-math.hypot(0.4, 0.4), math.hypot(0.4, 0.4)))
    assert "as if of other samples" in str(finding.how)
    (close,) = judge(report(asked.model_copy(update={"drop_at_most": 0.5}))).findings
    assert close.says == "undecided"
    none = with_number(report(asked), "int8", "rank1", low=None, high=None)
    assert judge(none).findings[0].says == "undecided"


def test_a_comparison_of_another_metric_row_or_kind_is_not_the_one() -> None:
    for other in ({"metric": "top5"}, {"versus": "teacher"}, {"kind": "ratio"}):
        others = tuple(one.model_copy(update=other) for one in COMPARISONS if one.metric == "top1")
        (finding,) = judge(with_row(report(rule(**DROP)), "int8", comparisons=others)).findings
        assert finding.says == "undecided"
        assert "as if of other samples" in str(finding.how)


def test_a_comparison_of_other_numbers_holds() -> None:
    (finding,) = judge(with_comparison(report(rule(**DROP)), "top1", value=0.0, low=-0.1, high=0.1)).findings
    assert finding.says == "hold"
    assert "is said to be 0, which is not that of the two numbers" in finding.reason


def test_numbers_of_two_units_do_not_compare() -> None:
    (finding,) = judge(with_number(report(rule(**DROP)), "fp32", "top1", unit="")).findings
    assert (finding.says, finding.reason) == ("hold", "top-1 of INT8 is in '%', of FP32 in ''")


def test_a_cosine_just_under_its_bound_does_not_read_as_the_bound() -> None:
    (finding,) = judge(
        with_number(report(rule(metric="cosine_to_fp32", at_least=0.98)), "int8", "cosine_to_fp32", value=0.97961)
    ).findings
    assert (finding.says, finding.reason) == ("hold", "cosine to fp32 of INT8 is 0.9796, at least 0.98 required")


def test_a_bound_in_decimals_is_met_by_decimals() -> None:
    rows = row("int8", numbers={"size": number(0.1 + 0.2, "MiB")}), row("fp32")
    assert judge(report(rule(metric="size", at_most=0.3), rows=rows)).verdict == "ship"


def test_one_hold_holds_and_every_rule_is_told() -> None:
    verdict = judge(report(rule(**FLOOR), rule(metric="top1", at_least=99.0), rule(metric="top1", at_least=92.5)))
    assert verdict.verdict == "hold"
    assert [finding.says for finding in verdict.findings] == ["ship", "hold", "undecided"]
    assert [finding.bound for finding in verdict.findings] == [90.0, 99.0, 92.5]
    assert {finding.value for finding in verdict.findings} == {92.8}


def test_unsteady_timings_are_told_and_settle_nothing() -> None:
    shaky = with_conditions(report(rule(**RATIO)), "int8", unstable=True)
    (finding,) = judge(shaky).findings
    assert finding.says == "undecided"
    assert finding.reason.endswith("at most 0.9x allowed; INT8 was timed while unstable")
    (slower,) = judge(with_conditions(report(rule(**RATIO | {"ratio_at_most": 0.4})), "int8", unstable=True)).findings
    assert slower.says == "hold"


@pytest.mark.parametrize(
    ("sweep", "says"),
    [({"b4": {"unstable": False}}, "ship"), ({"b4": {"unstable": True}}, "undecided"), ({"b4": {}}, "undecided"),
     ({"b8": {"unstable": False}}, "undecided"), (None, "undecided")],
)  # fmt: skip
def test_a_cell_of_a_sweep_has_a_steadiness_of_its_own(sweep: Any, says: str) -> None:
    swept = row("int8", numbers={"latency_p50@b4": number(1.0, "ms", 0.1, 900)})
    asked = report(rule(metric="latency_p50@b4", at_most=2.0), rows=(swept,))
    assert judge(with_conditions(asked, "int8", sweep=sweep)).verdict == says


def test_no_rules_hold() -> None:
    assert judge(report()).verdict == "hold"
    advice = judge(report(rule(**FLOOR, advice=True)))
    assert advice.verdict == "hold"
    assert "no rules" in str(advice.because)


def test_the_verdict_says_how_often_it_errs() -> None:
    one = judge(report(rule(**FLOOR), rule(**DROP), rule(metric="size", at_most=2.0))).errors
    assert one == (
        "By chance a model that breaks a rule ships in at most 2.5 % of benches, and one that keeps its 2 rules on "
        "samples is held in at most 5 %: intervals are of 95 %."
    )
    two = report(rule(**FLOOR), rule(of="fp32", metric="top1", at_least=90.0))
    assert two.confidence == pytest.approx(0.975)
    said = str(judge(two).errors)
    assert "at most 1.25 % of benches, any of 2 candidates in 2.5 %" in said
    assert "97.5 %" in said
    assert judge(two).verdict == "ship"
    narrow = judge(two.model_copy(update={"confidence": 0.95}))
    assert narrow.verdict == "undecided"
    assert "the report's intervals are of 95 %, and 97.5 % are needed" in narrow.findings[0].reason
    assert "does not err" in str(judge(report(rule(metric="size", at_most=2.0))).errors)


ADVICE: dict[str, Any] = {"metric": "latency_p50", "versus": "fp32", "ratio_at_most": 1.0, "advice": True}


def raced(int8: tuple[float, float | None], fp32: tuple[float, float | None]) -> Report:
    """INT8 and FP32 by accuracy and latency, each with rules of its own."""

    def numbers(accuracy: float, ms: float | None) -> dict[str, Number]:
        timed = {} if ms is None else {"latency_p50": number(ms, "ms", ms / 100, 1000)}
        return {"top1": number(accuracy, "%", 0.3, 10_000)} | timed

    change = int8[0] - fp32[0]
    told = {
        "metric": "top1",
        "versus": "fp32",
        "kind": "change",
        "value": change,
        "low": change - 0.1,
        "high": change + 0.1,
    }
    drop = Comparison.model_validate({**told, "n": 10_000, "how": "images"})
    rows = row("int8", numbers=numbers(*int8), comparisons=(drop,)), row("fp32", numbers=numbers(*fp32))
    return report(rule(**FLOOR), rule(of="fp32", **FLOOR), rule(**DROP), rule(**ADVICE), rows=rows)


@pytest.mark.parametrize(
    ("int8", "fp32", "verdict", "recommend", "because"),
    [
        ((92.0, 1.32), (92.0, 1.0), "ship", "fp32", "INT8 is 1.32x slower than FP32 here: ship FP32"),
        ((92.0, 1.0), (92.0, 1.5), "ship", "int8", "INT8 is 1.50x faster than FP32 here: ship INT8"),
        ((90.5, 0.5), (92.0, 1.0), "hold", "fp32", "INT8 does not pass: ship FP32"),
        ((92.0, 0.5), (89.0, 1.0), "hold", None, "no row passes its own rules"),
        ((90.4, 0.5), (90.2, 1.0), "undecided", None, "no row passes its own rules"),
        ((92.0, None), (92.0, 1.0), "ship", "fp32", "INT8 was not timed: ship FP32"),
    ],
)
def test_the_recommendation(
    int8: tuple[float, float | None], fp32: tuple[float, float | None], verdict: str, recommend: str, because: str
) -> None:
    answer = judge(raced(int8, fp32))
    assert (answer.verdict, answer.recommend, answer.because) == (verdict, recommend, because)
    assert answer.findings[-1].says == "advice"


def test_the_recommendation_says_why_there_is_none_or_why_a_row_is_not_it() -> None:
    untimed = judge(raced((92.0, None), (92.0, None)))
    assert (untimed.verdict, untimed.recommend, untimed.because) == ("ship", None, "INT8 and FP32: not timed")
    unruled = judge(report(rule(**FLOOR)))
    assert (unruled.verdict, unruled.recommend, unruled.because) == ("ship", "int8", "FP32 has no rules: ship INT8")


def test_a_row_held_against_one_that_breaks_its_own_rules_is_not_recommended() -> None:
    teacher = row("teacher", numbers={"top1": number(93.0, "%", 0.1, 10_000)})
    rules = rule(metric="top1", versus="teacher", drop_at_most=1.5), rule(of="teacher", metric="top1", at_least=99.0)
    answer = judge(report(*rules, rows=(row("int8"), teacher)))
    assert [finding.says for finding in answer.findings] == ["ship", "hold"]
    assert (answer.verdict, answer.recommend) == ("hold", None)


@pytest.mark.parametrize("n", [None, 0, -1])
def test_an_undecided_number_of_no_samples_does_not_crash(n: int | None) -> None:
    asked = with_number(report(rule(metric="top1", at_least=92.5)), "int8", "top1", n=n)
    (finding,) = judge(asked).findings
    assert (finding.says, finding.more) == ("undecided", None)


def test_advice_says_what_it_saw_and_never_decides() -> None:
    answer = judge(raced((92.0, 0.41), (92.0, 0.31)))
    assert answer.verdict == "ship"
    assert "INT8 has 1.323x the latency p50 of FP32 (0.31 → 0.41 ms" in answer.findings[-1].reason
    assert "at most 1x hoped for" in answer.findings[-1].reason
    missing = judge(raced((92.0, None), (92.0, None)))
    assert missing.verdict == "ship"
    assert missing.findings[-1].says == "advice"
    assert missing.recommend is None
