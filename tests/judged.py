"""A report in which every rule ships, of each kind that the gate knows, for tests to spoil one thing at a time."""

from typing import Any

from kd2edge import stats
from kd2edge.report.model import Comparison, Number, Report, Row
from kd2edge.schema import Latency, Rule, Suite

DEVICE: dict[str, Any] = {
    "cpu": "A",
    "cores": 2,
    "flags": ["avx2"],
    "board": None,
    "gpus": [],
    "load": 0.1,
    "governor": "performance",
}
VERSIONS = {"kd2edge": "0.1.0", "onnxruntime": "1.30.0"}
DATA = {"source": "s", "split": "test", "images": 10_000, "sha256": "d" * 64}
CONDITIONS: dict[str, Any] = {"threads": 1, "rounds": 3, "data": DATA, "unstable": False}
RULES: dict[str, dict[str, Any]] = {
    "floor": {"metric": "top1", "at_least": 90.0},
    "ceiling": {"metric": "latency_p99", "at_most": 5.0},
    "drop": {"metric": "top1", "versus": "fp32", "drop_at_most": 0.5},
    "rise": {"metric": "ece", "versus": "fp32", "rise_at_most": 1.0},
    "ratio": {"metric": "latency_p50", "versus": "fp32", "ratio_at_most": 1.0},
    "apart": {"metric": "rank1", "versus": "fp32", "drop_at_most": 1.0},
    "exact floor": {"metric": "cosine_to_fp32", "at_least": 0.98},
    "exact ratio": {"metric": "size", "versus": "fp32", "ratio_at_most": 0.6},
    "baseline drop": {"metric": "top1", "versus": "baseline", "drop_at_most": 1.5},
    "baseline rise": {"metric": "latency_p99", "versus": "baseline", "rise_at_most": 0.5},
    "baseline ratio": {"metric": "latency_p50", "versus": "baseline", "ratio_at_most": 1.1},
    "baseline exact": {"metric": "size", "versus": "baseline", "ratio_at_most": 1.05},
}


def rule(of: str = "int8", **fields: Any) -> Rule:
    return Rule.model_validate({"of": of, "why": "because", **fields})


def number(value: float | None, unit: str, spread: float | None = None, n: int | None = None, **fields: Any) -> Number:
    ends = {} if spread is None or value is None else {"low": value - spread, "high": value + spread}
    return Number.model_validate({"value": value, "unit": unit, "n": n, **ends, **fields})


def numbers(worse: float = 0.0) -> dict[str, Number]:
    """What a row has; `worse` points less accurate, and so much faster and smaller."""
    fast = 0.5 if worse else 1.0
    return {
        "top1": number(93.0 - worse, "%", 0.6, 10_000, better="higher"),
        "ece": number(2.0 + worse, "%", 0.5, 10_000, better="lower"),
        "rank1": number(96.0, "%", 0.4, 10_000, better="higher"),
        "latency_p50": number(1.0 * fast, "ms", 0.01, 9_000, better="lower"),
        "latency_p99": number(1.4 * fast, "ms", 0.05, 9_000, better="lower"),
        "size": number(1.0 * fast, "MiB", better="lower"),
        "cosine_to_fp32": number(0.999, "", n=10_000, better="higher"),
    }


def compared(metric: str, kind: str, value: float, spread: float, n: int, how: str) -> Comparison:
    low, high = value - spread, value + spread
    told = {
        "metric": metric,
        "versus": "fp32",
        "kind": kind,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "how": how,
    }
    return Comparison.model_validate(told)


COMPARISONS = (
    compared("top1", "change", -0.2, 0.15, 10_000, "Tango's score interval over 10,000 images: 60 lost, 40 won"),
    compared("ece", "change", 0.2, 0.3, 10_000, "paired bootstrap over 10,000 images"),
    compared("latency_p50", "ratio", 0.5, 0.02, 30, "3 rounds in turns, 30 stretches resampled"),
)


def row(role: str, **fields: Any) -> Row:
    compressed = role == "int8"
    told: dict[str, Any] = {
        "role": role,
        "file": f"{role}.onnx",
        "sha256": "0",
        "precision": "int8" if compressed else "fp32",
        "provider": "CPU",
        "numbers": numbers(0.2 if compressed else 0.0),
        "conditions": CONDITIONS,
        "comparisons": COMPARISONS if compressed else (),
    }
    return Row.model_validate({**told, **fields})


def report(*rules: Rule, rows: tuple[Row, ...] | None = None, **changed: Any) -> Report:
    """A report whose intervals are of the confidence that its rules need."""
    of = {asked.of for asked in rules if not asked.advice} & {"int8", "fp16", "fp32"}
    asked = {"about": "s", "latency": changed.pop("latency", Latency()), **changed.pop("suite", {})}
    fields = {
        "created": "2026-01-02T03:04:05Z",
        "command": "kd2edge bench",
        "target": "t",
        "device": DEVICE,
        "versions": VERSIONS,
        "suite_name": "s",
        "confidence": stats.simultaneous(0.95, max(1, len(of))),
        **changed,
    }
    shown = (row("int8"), row("fp32")) if rows is None else rows
    return Report.model_validate({**fields, "suite": Suite(rules=rules, **asked), "rows": shown})


def kind(name: str) -> tuple[Report, Report]:
    """A report whose one rule is of this kind, and a baseline for it."""
    return report(rule(**RULES[name])), report()


def with_row(of: Report, role: str, **changes: Any) -> Report:
    """The report with one row changed, unchecked."""
    rows = tuple(one.model_copy(update=changes) if one.role == role else one for one in of.rows)
    return of.model_copy(update={"rows": rows})


def with_number(of: Report, role: str, metric: str, **changes: Any) -> Report:
    """The report with one number changed, unchecked: a value may be NaN, which no JSON can say."""
    found = of.row(role)
    assert found is not None
    changed = found.numbers[metric].model_copy(update=changes)
    return with_row(of, role, numbers={**found.numbers, metric: changed})


def with_conditions(of: Report, role: str, **changes: Any) -> Report:
    found = of.row(role)
    assert found is not None
    return with_row(of, role, conditions={**found.conditions, **changes})


def with_comparison(of: Report, metric: str, **changes: Any) -> Report:
    """The report with INT8's comparison of one metric changed, unchecked."""
    found = of.row("int8")
    assert found is not None
    changed = tuple(one.model_copy(update=changes) if one.metric == metric else one for one in found.comparisons)
    return with_row(of, "int8", comparisons=changed)
