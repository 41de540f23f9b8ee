"""What stands behind the numbers, as the page tells it: findings with intervals, traces, classes, lineage, commands."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from kd2edge.report import distributions, figures, mistakes
from kd2edge.report.lineage import chains, commands
from kd2edge.report.model import Comparison, Finding, Number, Regression, Report, Row, Verdict
from kd2edge.report.page import write_page
from kd2edge.report.strip import MIDDLE, WIDTH, strip
from kd2edge.report.table import report_table, verdict_table
from kd2edge.report.traces import CLASSES, CLOCK, CONFUSED, CONFUSION, LATENCY, RELIABILITY, ROC, trace
from kd2edge.schema import Rule, Suite

DROP = Rule(metric="top1", of="int8", versus="fp32", drop_at_most=0.5, why="what INT8 may cost")
FLOOR = Rule(metric="top1", of="fp32", at_least=80, why="of no use below")
RATIO = Rule(metric="latency_p50", of="int8", versus="fp32", ratio_at_most=0.9, why="or why bother")
KINDS: dict[str, TypeAdapter[Any]] = {
    "latency_ms": LATENCY,
    "clock": CLOCK,
    "roc": ROC,
    "confusion": CONFUSION,
    "confused": CONFUSED,
    "per_class": CLASSES,
    "reliability": RELIABILITY,
}
NAN, INF = float("nan"), float("inf")


def row(role: str, traces: Mapping[str, Any] = {}, numbers: Mapping[str, Number] = {}) -> Row:
    return Row(role=role, file=f"{role}.onnx", sha256=role.encode().hex().ljust(64, "0"), precision="fp32",
               provider="CPUExecutionProvider", numbers=dict(numbers), traces=dict(traces))  # fmt: skip


def report(*rows: Row, **fields: Any) -> Report:
    return Report(created="2026-01-02T03:04:05Z", command="kd2edge bench runs/x", target="onnx-cpu", device={},
                  versions={}, suite_name="default", suite=Suite(about="", rules=()), rows=rows, **fields)  # fmt: skip


def words(path: Path) -> str:
    found: list[str] = []

    class Words(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    Words().feed(path.read_text(encoding="utf-8"))
    return " ".join(" ".join(found).split())


@pytest.mark.parametrize(
    ("name", "bad"),
    [("latency_ms", [1.0] * 100), ("latency_ms", [1.0] * 100 + [NAN]), ("latency_ms", "soon"), ("latency_ms", None),
     ("clock", {"seconds": [0, 1], "mhz": [3000]}), ("clock", {"mhz": [3000]}),
     ("clock", {"seconds": [INF], "mhz": [1]}),
     ("roc", {"far": [], "tar": []}), ("roc", {"far": [0.1]}), ("roc", [[0.1, 0.2]]),
     ("confusion", {"classes": ["a", "b"], "counts": [[1], [2]]}), ("confusion", {"classes": ["a"], "counts": []}),
     ("confused", []), ("confused", [["a", "b"]]), ("per_class", {"classes": ["a"], "n": [1], "recall": [NAN]}),
     ("reliability", {"confidence": [0.5], "accuracy": [0.5], "n": []})],
)  # fmt: skip
def test_a_trace_that_is_none_is_left_out(name: str, bad: object, tmp_path: Path) -> None:
    broken = report(row("fp32", {name: bad}), row("int8", {name: bad}))
    assert trace(broken.rows[0], name, KINDS[name]) is None
    assert "svg" not in write_page(broken, None, {}, tmp_path / "x.html").read_text().partition("</style>")[2]


def test_latency_is_drawn_by_the_nines_with_its_intervals() -> None:
    numbers = {"latency_p50": Number(value=1.5, unit="ms", low=1.4, high=1.6, n=9)}
    drawing = distributions.latency(
        report(row("int8", {"latency_ms": [1 + p / 100 for p in range(101)]}, numbers=numbers))
    )
    assert drawing is not None
    ET.fromstring(drawing.replace("xlink:href", "href"))
    assert 'aria-label="latency by percentile: INT8 p50 1.500 ms"' in drawing
    assert [name for name in ("min", "p50", "p90", "p99", "max") if f">{name}<" in drawing] == ["min", "p50", "p90",
                                                                                              "p99", "max"]  # fmt: skip
    bare = distributions.latency(report(row("int8", {"latency_ms": [1 + p / 100 for p in range(101)]})))
    assert bare is not None
    assert drawing.count("<use") > bare.count("<use")  # the point and the caps of its whisker


def test_clocks_are_drawn_for_what_the_machine_tells() -> None:
    hot = row("int8", {"clock": {"seconds": [0, 1, 2, 60, 61], "celsius": [50, 51, 52, 60, 61]}})
    assert list(distributions.clocks(report(hot))) == ["Temperature"]
    assert distributions.clocks(report(row("int8"))) == {}
    across, up = distributions._with_gaps((0.0, 1.0, 2.0, 60.0, 61.0), (5.0, 5.0, 5.0, 6.0, 6.0))
    assert [x != x for x in across] == [y != y for y in up] == [False, False, False, True, False, False]


def test_the_roc_says_what_it_shows() -> None:
    numbers = {
        "tar@1e-3": Number(value=90.0, unit="%", low=89.0, high=91.0),
        "tar@1e-3@blur": Number(value=1.0, unit="%"),
    }
    drawn = mistakes.roc(report(row("int8", {"roc": {"far": [0, 1e-3, 1], "tar": [0, 0.9, 1]}}, numbers=numbers)))
    assert drawn is not None
    assert 'aria-label="ROC: INT8 TAR@1e-3 90.00 %"' in drawn
    assert mistakes.roc(report(row("int8", {"roc": {"far": [0], "tar": [0.5]}}))) is not None


def test_reliability_tells_over_confidence_with_its_sign() -> None:
    bins = {"confidence": [0.5, 0.9], "accuracy": [0.5, 0.8], "n": [10, 30]}
    drawn = mistakes.reliability(report(row("int8", {"reliability": bins})))
    assert drawn is not None
    assert "INT8 +7.5 points" in drawn


def per_class(**recall: float) -> dict[str, Any]:
    return {"per_class": {"classes": list(recall), "n": [50] * len(recall), "recall": list(recall.values())}}


def test_classes_are_ordered_by_what_the_compressed_lose() -> None:
    rows = (row("plain", per_class(cat=10, dog=90)), row("fp32", per_class(cat=90, dog=90, eel=70)),
            row("int8", per_class(dog=85, cat=89)))  # fmt: skip
    roles, lines = mistakes.classes(report(*rows))
    assert roles == ["plain", "int8"]
    assert [(line.name, line.others) for line in lines] == [
        ("dog", ((90, 0), (85, -5))),
        ("cat", ((10, -80), (89, -1))),
    ]
    assert mistakes.classes(report(rows[0], rows[2])) == ([], [])
    assert mistakes.classes(report(rows[1])) == ([], [])


def test_confused_classes_are_merged_over_rows() -> None:
    rows = (
        row("fp32", {"confused": [["cat", "dog", 5]]}),
        row("int8", {"confused": [["eel", "dog", 9], ["cat", "dog", 6]]}),
    )
    roles, pairs = mistakes.confused(report(*rows))
    assert roles == ["fp32", "int8"]
    assert [(pair.true, pair.predicted, pair.counts) for pair in pairs] == [
        ("eel", "dog", [None, 9]),
        ("cat", "dog", [5, 6]),
    ]


def finding(rule: Rule, value: float, low: float, high: float, bound: float, **fields: Any) -> Finding:
    return Finding(
        rule=rule, says="undecided", reason="it is so", value=value, low=low, high=high, bound=bound, **fields
    )


@pytest.mark.parametrize(
    ("judged", "met"),
    [(finding(DROP, 0.3, 0.1, 0.45, 0.5), True), (finding(DROP, 0.7, 0.6, 0.9, 0.5), False),
     (finding(FLOOR, 90, 85, 95, 80), True), (finding(FLOOR, 70, 60, 79, 80), False),
     (finding(RATIO, 0.5, 0.4, 0.6, 0.9), True), (finding(RATIO, 1.5, 1.4, 1.6, 0.9), False)],
)  # fmt: skip
def test_right_of_the_line_a_rule_is_met(judged: Finding, met: bool) -> None:
    drawn = strip(judged)
    assert drawn is not None
    span = re.search(rf"M([\d.]+) {MIDDLE}H([\d.]+)", drawn)
    assert span is not None
    left, right = float(span[1]), float(span[2])
    assert 0 <= left < right <= WIDTH
    assert left > WIDTH / 2 if met else right < WIDTH / 2


def test_a_strip_straddles_where_the_interval_does_and_needs_one() -> None:
    drawn = strip(finding(FLOOR, 80, 80, 80, 80))
    assert drawn is not None
    assert f'cx="{WIDTH / 2:.1f}"' in drawn
    assert strip(Finding(rule=FLOOR, says="hold", reason="it is gone")) is None
    assert strip(Finding(rule=FLOOR, says="ship", reason="", value=90, bound=80)) is None


def test_findings_are_told_with_interval_and_how_many_more() -> None:
    judged = finding(DROP, 0.31, -0.1, 0.72, 0.5, more=2400, towards="ship")
    assert figures.found(judged) == "drop 0.31 (−0.1 to 0.72)"
    assert figures.more(judged) == "about 2,400 more samples would let it ship"
    assert figures.more(judged.model_copy(update={"reason": "about 2,400 more images"})) == ""
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(verdict_table(Verdict(verdict="undecided", findings=(judged,))))
    assert "it is so [drop 0.31 (−0.1 to 0.72); about 2,400 more samples would let it ship]" in capture.get()


@pytest.mark.parametrize(
    ("kind", "unit", "told"),
    [("change", "%", ("−0.31 points", "−0.50 to +0.10")), ("change", "ms", ("−0.31 ms", "−0.5 to +0.1")),
     ("ratio", "ms", ("−0.310×", "−0.500 to 0.100"))],
)  # fmt: skip
def test_a_comparison_has_its_sign_and_unit(kind: Any, unit: str, told: tuple[str, str]) -> None:
    compared = Comparison(metric="m", versus="fp32", kind=kind, value=-0.31, low=-0.5, high=0.1, n=9, how="so")
    assert figures.compared(compared, unit) == told
    assert figures.compared(compared.model_copy(update={"low": None}), unit) == (told[0], "")


@pytest.mark.parametrize(
    ("metric", "name"),
    [("latency_p50@b4", "latency p50, batch 4"), ("throughput@t1", "throughput, 1 thread"),
     ("latency_p50@t2", "latency p50, 2 threads"), ("top1@gaussian_noise", "top-1, gaussian noise"),
     ("tar@1e-3@jpeg", "TAR@1e-3, jpeg"), ("tar@1e-3", "TAR@1e-3"), ("ece", "ECE")],
)  # fmt: skip
def test_settings_are_part_of_a_metrics_name(metric: str, name: str) -> None:
    assert figures.name(metric) == name


@pytest.mark.parametrize("width", [80, 120])
def test_many_numbers_go_on_in_the_next_table(width: int) -> None:
    numbers = {f"metric_{place}_of_some_length": Number(value=90.0, unit="%") for place in range(20)}
    numbers |= {"latency_p50@b4": Number(value=1.0, unit="ms")}
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(report_table(report(row("teacher", numbers=numbers), row("int8", numbers=numbers))))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.count("90.00") for line in lines) == 40
    assert "…" not in capture.get()
    assert "batch" not in capture.get()


def event(role: str, kind: str, file: str, sha256: str) -> dict[str, str]:
    return {
        "role": role,
        "kind": kind,
        "file": file,
        "sha256": sha256,
        "verb": "distill",
        "time": "now",
        "event": "artifact",
    }


def test_lineage_goes_from_the_ledger_to_what_was_measured() -> None:
    measured = report(row("fp32"), row("int8"))
    ledger = [
        event("fp32", "weights", "fp32.safetensors", "1"),
        event("fp32", "onnx", "fp32.onnx", "old"),
        event("fp32", "onnx", "fp32.onnx", measured.rows[0].sha256),
        event("tailored", "weights", "t", "2"),
    ]
    found = chains(measured, ledger)
    assert [(step.kind, bool(step.measured)) for step in found["fp32"]] == [("weights", False), ("onnx", True)]
    assert [(step.file, bool(step.measured)) for step in found["int8"]] == [("int8.onnx", True)]
    assert list(found) == ["fp32", "int8", "tailored"]
    assert [command for command, _ in commands(measured, ledger, "x.json")] == [
        "kd2edge bench runs/x", "kd2edge gate x.json", "kd2edge ship recipe.yaml"]  # fmt: skip
    assert len(commands(measured, [], "x.json")) == 2


def test_the_page_tells_comparisons_regressions_and_differences(tmp_path: Path) -> None:
    compared = Comparison(
        metric="top1", versus="fp32", kind="change", value=-0.31, n=9, how="Tango's interval <of> 9 images"
    )
    case = Regression(role="int8", versus="fp32", images=("no png", "iVBORw0KGgo="), said='"cat" & dog')
    top1 = {"top1": Number(value=90.0, unit="%")}
    full = report(row("fp32", numbers=top1), row("int8", numbers=top1).model_copy(update={"comparisons": (compared,)}),
                  confidence=0.975, regressions=(case,))  # fmt: skip
    verdict = Verdict(verdict="undecided", findings=(finding(DROP, 0.31, 0.1, 0.52, 0.5, more=70, towards="hold"),),
                      errors="It errs rarely.", differences=("driver 1 → 2",))  # fmt: skip
    path = write_page(full, verdict, {}, tmp_path / "x.html", [event("fp32", "weights", "fp32.safetensors", "1")])
    text = words(path)
    for said in ("int8 against fp32: top-1", "Tango's interval <of> 9 images", "−0.31 points", "no interval",
                 "It errs rarely.", "driver 1 → 2", "about 70 more samples would let it hold",
                 "drop 0.31 (0.1 to 0.52)", "97.5 % interval", "int8 wrong, fp32 right",
                 "fp32.safetensors"):  # fmt: skip
        assert said in text
    assert path.read_text().count('alt="&#34;cat&#34; &amp; dog (') == 2


def test_what_holds_stands_above_what_ships(tmp_path: Path) -> None:
    says = ("ship", "advice", "hold", "undecided")
    findings = tuple(Finding.model_validate({"rule": FLOOR, "says": s, "reason": f"this is {s}"}) for s in says)
    text = words(write_page(report(), Verdict(verdict="hold", findings=findings), {}, tmp_path / "x.html"))
    places = [text.index(f"this is {s}") for s in ("hold", "undecided", "ship", "advice")]
    assert places == sorted(places)
