"""The table and the page tell the report as it is: every number, every reason, nothing that wraps or phones home."""

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from kd2edge.errors import UserError
from kd2edge.report import figures, plot
from kd2edge.report.model import Finding, Number, Report, Row, Verdict
from kd2edge.report.page import Curves, write_page
from kd2edge.report.table import report_table, verdict_table
from kd2edge.schema import Rule, Suite

FLOOR = Rule(metric="tar@1e-3", of="fp32", at_least=80, why="of no use below")
DROP = Rule(metric="tar@1e-3", of="int8", versus="fp32", drop_at_most=0.5, why="what INT8 may cost")
FASTER = Rule(metric="latency_p50", of="int8", versus="fp32", ratio_at_most=1.0, why="or why bother", advice=True)
SUITE = Suite(about="does it ship?", rules=(FLOOR, DROP, FASTER))
UNMEASURED = "p99 needs 662 samples, there are 120"
CURVES: Curves = {
    "teacher": [{"stage": "train", "epoch": e, "loss": 4.0 / e} for e in range(1, 5)],
    "fp32": [{"stage": s, "epoch": e, "loss": 3.0 / e} for s in ("warm", "distil") for e in range(1, 4)],
}


def number(value: float | None, unit: str, spread: float = 0.0, note: str | None = None) -> Number:
    if value is None or not spread:
        return Number(value=value, unit=unit, n=4000, note=note)
    return Number(value=value, unit=unit, n=4000, low=value - spread, high=value + spread)


def row(role: str, tar: float, p50: float, size: float, faults: tuple[str, ...] = ()) -> Row:
    numbers = {
        "tar@1e-2": number(tar + 4, "%", 0.9),
        "tar@1e-3": number(tar, "%", 0.9),
        "eer": number(5.25, "%", 0.4),
        "cosine_to_fp32": number(0.99871, ""),
        "latency_p50": number(p50, "ms", p50 / 100),
        "latency_p90": number(p50 * 1.1, "ms"),
        "latency_p99": number(None, "ms", note=UNMEASURED),
        "throughput": number(1000 / p50, "img/s"),
        "size": number(size, "MiB"),
        "parameters": number(176_000, ""),
        "macs": number(9_810_000, ""),
        "peak_memory": number(61.875, "MiB"),
    }
    precision = "int8" if role == "int8" else "fp32"
    sha256 = f"{len(role):02x}" * 32
    return Row(role=role, file=f"{role}.onnx", sha256=sha256, precision=precision, provider="CPUExecutionProvider",
               numbers=numbers, faults=faults, conditions={"unstable": False})  # fmt: skip


@pytest.fixture
def report() -> Report:
    return Report(
        created="2026-01-02T03:04:05Z",
        command="kd2edge bench runs/x --target <onnx-cpu>",
        target="onnx-cpu",
        device={"cpu": "Cortex & Co", "flags": ["avx2", "avx512_vnni"], "load": 0.125, "container": True, "gpu": None},
        versions={"onnxruntime": "1.31.1"},
        suite_name="default",
        suite=SUITE,
        rows=(row("teacher", 93.1, 1.91, 4.3), row("plain", 88.4, 0.312, 0.68), row("fp32", 90.9, 0.31, 0.68),
              row("int8", 90.55, 0.402, 0.21, ("int8.onnx is <gone>",))),
    )  # fmt: skip


@pytest.fixture
def verdict() -> Verdict:
    findings = (
        Finding(rule=FLOOR, says="ship", reason="fp32 reaches 90.90."),
        Finding(rule=DROP, says="hold", reason="int8.onnx is <gone>."),
        Finding(rule=FLOOR, says="undecided", reason="too few pairs."),
        Finding(rule=FASTER, says="advice", reason="INT8 is 1.30x slower."),
    )
    return Verdict(verdict="hold", findings=findings, recommend="fp32", because="INT8 is slower here.")


def printed(renderable: RenderableType, width: int) -> list[str]:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(92.1, "%", "92.10"), (0.3104, "ms", "0.310"), (12.345, "ms", "12.3"), (0.684, "MiB", "0.68"),
     (3226.4, "img/s", "3226"), (12345, "img/s", "12.3 k"), (176_000, "", "176 k"), (1_120_000, "", "1.12 M"),
     (9.8e9, "", "9.80 G"), (0.99871, "", "0.9987"), (-0.2, "", "-0.2000"), (0, "img/s", "0"), (659, "", "659")],
)  # fmt: skip
def test_sensible_digits(value: float, unit: str, text: str) -> None:
    assert figures.digits(value, unit) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_cannot_be_a_number_is_a_dash(value: float | None) -> None:
    lost = Number.model_construct(value=value, unit="%", n=None, low=1.0, high=2.0, better=None, note=None)
    assert (figures.value(lost), figures.interval(lost)) == ("—", "")
    assert figures.value(None) == "—"


@pytest.mark.parametrize("width", [80, 99, 100, 140])
def test_the_table_fits_and_wraps_no_row(report: Report, width: int) -> None:
    lines = printed(report_table(report), width)
    assert max(len(line) for line in lines) <= width
    for role in ("teacher", "plain", "fp32", "int8"):
        assert sum(line.startswith(f"{role} ") for line in lines) == 2
    assert "…" not in "".join(lines)


def test_the_table_says_values_intervals_notes_and_faults(report: Report) -> None:
    wide = "\n".join(printed(report_table(report), 100))
    for text in ("90.90", "90.00–91.80", "0.310", "0.307–0.313", "3226", "176 k", "9.81 M", "0.9987"):
        assert text in wide
    assert "✗ int8: int8.onnx is <gone>" in wide
    assert f"— latency p99 of teacher, plain, fp32, int8: {UNMEASURED}" in wide
    assert "90.00–91.80" not in "\n".join(printed(report_table(report), 80))


def test_the_verdict_has_a_mark_for_each_rule_and_one_answer(verdict: Verdict) -> None:
    lines = printed(verdict_table(verdict), 80)
    assert [line[0] for line in lines[:4]] == ["✓", "✗", "?", "→"]
    assert lines[5].split() == ["HOLD", "fp32", "INT8", "is", "slower", "here."]


def test_markup_in_a_reason_is_text(verdict: Verdict) -> None:
    odd = verdict.model_copy(update={"because": "[bold]not markup[/]", "findings": ()})
    assert "[bold]not markup[/]" in printed(verdict_table(odd), 80)[1]


def test_the_headline_is_what_the_rules_speak_of(report: Report) -> None:
    assert figures.headline(report) == "tar@1e-3"
    without_rules = report.model_copy(update={"suite": SUITE.model_copy(update={"rules": ()})})
    assert figures.headline(without_rules) == "tar@1e-2"


def test_a_rule_in_short() -> None:
    assert figures.bound(FLOOR) == "fp32 TAR@1e-3 at least 80"
    assert figures.bound(DROP) == "int8 TAR@1e-3 at most 0.5 below fp32"
    assert figures.bound(FASTER) == "int8 latency p50 at most 1× fp32"


class Text(HTMLParser):
    """The words of a page, and every attribute through which a browser would fetch something."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href", "srcset", "data")]


def test_the_page_tells_everything(report: Report, verdict: Verdict, tmp_path: Path) -> None:
    page = Text(write_page(report, verdict, CURVES, tmp_path / "report.html"))
    findings = [text for finding in verdict.findings for text in (finding.reason, finding.rule.why)]
    numbers = [figures.value(n) for row in report.rows for n in row.numbers.values()]
    files = [text for row in report.rows for text in (row.sha256, row.file, row.provider)]
    conditions = [report.command, report.created, "Cortex & Co", "avx512_vnni", "onnxruntime 1.31.1", "662 samples"]
    pictures = ["distilled", "INT8", "latency p50 (ms)", "size (MiB)", "TAR@1e-3 (%)", "warm", "distil", "loss"]
    told = ["HOLD fp32", "INT8 is slower here.", UNMEASURED, "n = 4,000", "90.00–91.80", "✗ int8: int8.onnx is <gone>"]
    for text in findings + numbers + files + conditions + pictures + told:
        assert text in page.text


def test_the_page_is_one_small_file_that_fetches_nothing(report: Report, verdict: Verdict, tmp_path: Path) -> None:
    path = write_page(report, verdict, CURVES, tmp_path / "report.html")
    page = Text(path)
    assert path.stat().st_size < 1_500_000
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\((?!#|&quot;#)|http", path.read_text(encoding="utf-8"))


def test_the_same_report_gives_the_same_page(report: Report, verdict: Verdict, tmp_path: Path) -> None:
    first, second = (write_page(report, verdict, CURVES, tmp_path / name / "x.html") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_a_page_of_lost_numbers_without_verdict_or_curves(report: Report, tmp_path: Path) -> None:
    lost = {"top1": number(None, "%", note="the file is missing"), "latency_p50": number(None, "ms")}
    bare = report.model_copy(update={"rows": (report.rows[0].model_copy(update={"numbers": lost}),)})
    page = Text(write_page(bare, None, {"fp32": [{"epoch": 1}]}, tmp_path / "report.html"))
    assert "Not judged yet" in page.text
    assert "— n = 4,000 the file is missing" in page.text
    assert "svg" not in page.tags


def test_colours_belong_to_the_page_and_ids_to_one_drawing(report: Report) -> None:
    drawings = [plot.trade_off(report, "tar@1e-3", cost) for cost in ("latency_p50", "size")]
    drawings.append(plot.loss_curve('a "role"', CURVES["fp32"]))
    ids: list[str] = []
    for svg in drawings:
        assert svg is not None
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        ET.fromstring(svg.replace("xlink:href", "href"))
        ids += set(re.findall(r' id="([^"]+)"', svg))
    assert len(ids) == len(set(ids))


def test_near_labels_do_not_lie_on_each_other(report: Report) -> None:
    near = report.model_copy(update={"rows": tuple(row(role, 90.0, 0.3, 0.5) for role in ("teacher", "plain", "fp32"))})
    svg = plot.trade_off(near, "tar@1e-3", "latency_p50")
    assert svg is not None
    heights = [float(y) for y in re.findall(r'y="([0-9.]+)"[^>]*>(?:teacher|plain|distilled)<', svg)]
    assert len(heights) == 3
    assert min(abs(a - b) for i, a in enumerate(heights) for b in heights[:i]) >= 11


def test_a_page_that_cannot_be_written_is_the_users_to_mend(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write_page(report, None, {}, tmp_path / "file" / "report.html")
