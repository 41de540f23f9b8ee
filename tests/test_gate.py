"""The gate's answers, rule by rule: what ships, and everything that must not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd2edge.edge.gate import judge
from kd2edge.report.model import Number, Report, Row, Verdict
from kd2edge.schema import Latency, Rule, Suite

DEVICE = {"cpu": "A", "cores": 2, "flags": ["avx2"], "board": None, "gpus": [], "load": 0.1}
UNITS = {"tar@1e-3": "%", "latency_p50": "ms", "size": "MiB", "cosine_to_fp32": ""}


def row(role: str, *, faults: tuple[str, ...] = (), provider: str = "CPU", **values: Any) -> Row:
    conditions = {"data": {"sha256": values.pop("data", "d")}, "unstable": values.pop("unstable", False)}
    named = {name.replace("tar", "tar@1e-3"): value for name, value in values.items()}
    numbers = {
        name: value if isinstance(value, Number) else Number(value=value, unit=UNITS[name])
        for name, value in named.items()
    }
    return Row(
        role=role,
        file=f"{role}.onnx",
        sha256="0",
        precision="int8" if role == "int8" else "fp32",
        provider=provider,
        numbers=numbers,
        conditions=conditions,
        faults=faults,
    )


def report(rules: list[dict[str, Any]], *rows: Row, **changed: Any) -> Report:
    suite = Suite(
        about="s",
        latency=changed.pop("latency", Latency()),
        rules=tuple(Rule.model_validate({"why": "because", "metric": "tar@1e-3", "of": "int8"} | r) for r in rules),
    )
    fields = {"created": "now", "command": "", "target": "t", "device": DEVICE, "versions": {}, "suite_name": "s"}
    return Report(**(fields | changed), suite=suite, rows=rows)


def only(verdict: Verdict) -> tuple[str, str]:
    (finding,) = verdict.findings
    return finding.says, finding.reason


DROP = {"versus": "fp32", "drop_at_most": 0.5}


@pytest.mark.parametrize(
    ("rule", "int8", "fp32", "says", "reason"),
    [
        (DROP, 91.79, 92.10, "ship", "INT8 loses 0.31 points of tar@1e-3 against FP32 (92.10 → 91.79 %), it may lose"),
        (DROP, 91.60, 92.10, "ship", "INT8 loses 0.5 points"),
        (DROP, 91.59, 92.10, "hold", "INT8 loses 0.51 points of tar@1e-3 against FP32"),
        (DROP, 92.50, 92.10, "ship", "INT8 gains 0.4 points"),
        ({"at_least": 90.0}, 90.0, 0.0, "ship", "tar@1e-3 of INT8 is 90.00 %, at least 90 required"),
        ({"at_least": 90.0}, 89.99, 0.0, "hold", "tar@1e-3 of INT8 is 89.99 %, at least 90 required"),
        ({"at_most": 90.0}, 90.0, 0.0, "ship", "at most 90 allowed"),
        ({"at_most": 90.0}, 90.1, 0.0, "hold", "at most 90 allowed"),
        ({"versus": "fp32", "rise_at_most": 1.0}, 11.0, 10.0, "ship", "INT8 gains 1 points of tar@1e-3"),
        ({"versus": "fp32", "rise_at_most": 1.0}, 11.1, 10.0, "hold", "it may gain at most 1"),
        ({"versus": "fp32", "ratio_at_most": 0.6}, 6.0, 10.0, "ship", "INT8 has 0.6x the tar@1e-3 of FP32"),
        ({"versus": "fp32", "ratio_at_most": 0.6}, 6.1, 10.0, "hold", "at most 0.6x allowed"),
        ({"versus": "fp32", "ratio_at_most": 0.6}, 6.1, 0.0, "hold", "there is no ratio"),
    ],
)
def test_bounds(rule: dict[str, Any], int8: float, fp32: float, says: str, reason: str) -> None:
    verdict = judge(report([rule], row("int8", tar=int8), row("fp32", tar=fp32)))
    assert (verdict.verdict, verdict.findings[0].says) == (says, says)
    assert reason in verdict.findings[0].reason


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row("fp32", tar=92.0)], "no row int8"),
        ([row("int8", tar=92.0)], "no row fp32"),
        ([row("int8"), row("fp32", tar=92.0)], "INT8 has no tar@1e-3"),
        ([row("int8", tar=92.0), row("fp32")], "FP32 has no tar@1e-3"),
        ([row("int8", tar=Number(value=None, unit="%", note="too few")), row("fp32", tar=9.0)], "too few"),
        ([row("int8", tar=Number.model_construct(value=float("nan"), unit="%")), row("fp32", tar=9.0)], "nan"),
        ([row("int8", tar=Number.model_construct(value=float("inf"), unit="%")), row("fp32", tar=9.0)], "inf"),
        ([row("int8", tar=92.0, faults=("killed",)), row("fp32", tar=92.0)], "faulty: killed"),
        ([row("int8", tar=92.0), row("fp32", tar=92.0, faults=("gone", "lost"))], "faulty: gone; lost"),
        ([row("int8", tar=92.0, provider=""), row("fp32", tar=92.0)], "does not say what ran it"),
    ],
)
def test_it_fails_closed(rows: list[Row], reason: str) -> None:
    shown = report([DROP]).model_copy(update={"rows": tuple(rows)})
    verdict = judge(shown)
    assert verdict.verdict == "hold"
    assert only(verdict)[0] == "hold"
    assert reason in only(verdict)[1]


def test_no_rules_hold() -> None:
    assert judge(report([], row("int8", tar=99.0))).verdict == "hold"
    advice = judge(report([{"at_least": 1.0, "advice": True}], row("int8", tar=99.0)))
    assert advice.verdict == "hold"
    assert "no rules" in str(advice.because)


def test_numbers_of_two_units_do_not_compare() -> None:
    share = Number(value=0.92, unit="")
    verdict = judge(report([DROP], row("int8", tar=92.0), row("fp32", tar=share)))
    assert only(verdict) == ("hold", "tar@1e-3 of INT8 is in '%', of fp32 in ''")


def test_a_cosine_just_under_its_bound_does_not_read_as_the_bound() -> None:
    rule = {"metric": "cosine_to_fp32", "at_least": 0.98}
    verdict = judge(report([rule], row("int8", cosine_to_fp32=0.97961)))
    assert only(verdict) == ("hold", "cosine_to_fp32 of INT8 is 0.9796, at least 0.98 required")


def test_one_hold_holds_and_every_rule_is_told() -> None:
    rules = [{"at_least": 90.0}, {"at_least": 99.0}, {"at_most": 100.0}]
    verdict = judge(report(rules, row("int8", tar=95.0)))
    assert verdict.verdict == "hold"
    assert [finding.says for finding in verdict.findings] == ["ship", "hold", "ship"]
    assert [finding.bound for finding in verdict.findings] == [90.0, 99.0, 100.0]
    assert {finding.value for finding in verdict.findings} == {95.0}


def test_an_interval_across_the_bound_is_undecided() -> None:
    number = Number(value=95.0, unit="%", low=93.0, high=97.0)
    verdict = judge(report([{"at_least": 94.0}, {"at_least": 90.0}], row("int8", tar=number)))
    assert verdict.verdict == "undecided"
    assert [finding.says for finding in verdict.findings] == ["undecided", "ship"]
    assert "93.00 to 97.00 does not settle" in verdict.findings[0].reason
    assert judge(report([{"at_least": 96.0}], row("int8", tar=number))).verdict == "hold"
    assert judge(report([{"at_most": 96.0}], row("int8", tar=number))).verdict == "undecided"


LATENCY = {"metric": "latency_p50", "versus": "fp32", "ratio_at_most": 1.0}


def test_timings_of_two_providers_do_not_compare() -> None:
    verdict = judge(report([LATENCY], row("int8", latency_p50=1.0), row("fp32", latency_p50=2.0, provider="GPU")))
    assert only(verdict)[0] == "hold"
    assert "timings do not compare" in only(verdict)[1]
    assert judge(report([DROP], row("int8", tar=9.0), row("fp32", tar=9.0, provider="GPU"))).verdict == "ship"


def test_unstable_timings_do_not_settle_a_comparison() -> None:
    rows = row("int8", latency_p50=1.0, unstable=True), row("fp32", latency_p50=2.0)
    verdict = judge(report([LATENCY], *rows))
    assert verdict.verdict == "undecided"
    assert "unstable (int8)" in verdict.findings[0].reason
    slower = row("int8", latency_p50=3.0, unstable=True), row("fp32", latency_p50=2.0)
    assert judge(report([LATENCY], *slower)).verdict == "hold"


BASED = {"versus": "baseline", "drop_at_most": 0.5}
TIMED = {"metric": "latency_p50", "versus": "baseline", "ratio_at_most": 1.1}


def test_against_a_baseline() -> None:
    now = report([BASED, TIMED], row("int8", tar=91.8, latency_p50=1.05))
    before = report([], row("int8", tar=92.0, latency_p50=1.0))
    assert judge(now, before).verdict == "ship"
    better = report([], row("int8", tar=92.4, latency_p50=0.9))
    assert [finding.says for finding in judge(now, better).findings] == ["hold", "hold"]


@pytest.mark.parametrize(
    ("changed", "accuracy", "latency"),
    [
        ({"target": "u"}, "of target u", "of target u"),
        ({"device": {**DEVICE, "cpu": "B"}}, None, "another device: cpu A against B"),
        ({"device": {**DEVICE, "load": 5.0}}, None, None),
        ({"latency": Latency(seconds=1)}, None, "another protocol"),
    ],
)
def test_a_baseline_from_elsewhere_holds(changed: dict[str, Any], accuracy: str | None, latency: str | None) -> None:
    now = report([BASED, TIMED], row("int8", tar=92.0, latency_p50=1.0))
    before = report([], row("int8", tar=92.0, latency_p50=1.0), **changed)
    for finding, reason in zip(judge(now, before).findings, (accuracy, latency), strict=True):
        assert finding.says == ("ship" if reason is None else "hold")
        assert reason is None or reason in finding.reason


def test_a_baseline_of_other_images_or_none_at_all_holds() -> None:
    now = report([BASED], row("int8", tar=92.0))
    assert "other images" in only(judge(now, report([], row("int8", tar=92.0, data="e"))))[1]
    assert "none was given" in only(judge(now))[1]
    assert "baseline has no row int8" in only(judge(now, report([], row("fp32", tar=92.0))))[1]
    assert judge(now, report([], row("int8", tar=92.0, faults=("killed",)))).verdict == "hold"


ADVICE = LATENCY | {"advice": True}
OWN: list[dict[str, Any]] = [{"at_least": 90.0}, {"at_least": 90.0, "of": "fp32"}, DROP]


@pytest.mark.parametrize(
    ("int8", "fp32", "verdict", "recommend", "because"),
    [
        ((92.0, 1.32), (92.0, 1.0), "ship", "fp32", "INT8 is 1.32x slower than FP32 here: ship FP32"),
        ((92.0, 1.0), (92.0, 1.5), "ship", "int8", "INT8 is 1.50x faster than FP32 here: ship INT8"),
        ((90.5, 0.5), (92.0, 1.0), "hold", "fp32", "INT8 does not pass: ship FP32"),
        ((92.0, 0.5), (89.0, 1.0), "hold", None, "no row passes its own rules"),
        ((92.0, None), (92.0, 1.0), "ship", "fp32", "INT8 was not timed: ship FP32"),
    ],
)
def test_the_recommendation(
    int8: tuple[float, float | None], fp32: tuple[float, float | None], verdict: str, recommend: str, because: str
) -> None:
    rows = [row(name, tar=tar, latency_p50=ms) for name, (tar, ms) in (("int8", int8), ("fp32", fp32))]
    answer = judge(report([*OWN, ADVICE], *rows))
    assert (answer.verdict, answer.recommend, answer.because) == (verdict, recommend, because)
    assert answer.findings[-1].says == "advice"


def test_advice_says_what_it_saw_and_never_decides() -> None:
    rows = row("int8", tar=92.0, latency_p50=0.41), row("fp32", tar=92.0, latency_p50=0.31)
    answer = judge(report([*OWN, ADVICE], *rows))
    assert answer.verdict == "ship"
    assert "INT8 has 1.323x the latency_p50 of FP32 (0.31 → 0.41 ms), at most 1x hoped for" in (
        answer.findings[-1].reason
    )
    missing = judge(report([*OWN, ADVICE], row("int8", tar=92.0), row("fp32", tar=92.0)))
    assert missing.verdict == "ship"
    assert missing.findings[-1].says == "advice"
    assert missing.recommend is None


@given(
    value=st.one_of(st.none(), st.floats()),
    bound=st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
    floor=st.booleans(),
)
def test_nothing_unusable_ever_ships(value: float | None, bound: float, floor: bool) -> None:
    number = Number.model_construct(value=value, unit="%", n=None, low=None, high=None, better=None, note=None)
    verdict = judge(report([{"at_least" if floor else "at_most": bound}], row("int8", tar=number)))
    good = value is not None and abs(value) < float("inf") and (value >= bound if floor else value <= bound)
    if verdict.verdict == "ship" and not good:
        assert value == pytest.approx(bound, abs=2e-9)  # a decimal bound met up to rounding
    if good:
        assert verdict.verdict == "ship"
