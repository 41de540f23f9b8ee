"""The pages in a real browser: each says nothing to the console, fetches nothing, fits a phone, and hides no verdict.

With KD2EDGE_AXE=axe.min.js (npm pack axe-core) axe judges its accessibility too.
"""

import base64
import json
import os
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kd2edge.report.history import History, Moment, write_history
from kd2edge.report.model import Comparison, Finding, Number, Regression, Report, Row, Verdict
from kd2edge.report.page import write_page
from kd2edge.schema import Rule, Suite
from tests import chromium

WIDTHS = (375, 1280)
LOOKS = [(width, dark, "screen") for width in WIDTHS for dark in (False, True)] + [(720, False, "print")]
OVER = "document.scrollingElement.scrollWidth - innerWidth"
IMAGES = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
UNNAMED = """[...document.querySelectorAll("svg")].filter(svg => svg.getAttribute("role") !== "img"
    || !(svg.getAttribute("aria-label") || svg.querySelector("title")?.textContent)).length"""
# Every corner and the middle of what the answer covers belongs to the answer.
HIDDEN = """(() => {
  scrollTo(0, 0);
  const verdict = document.querySelector("h1");
  return [...verdict.getClientRects()].flatMap(box => [.02, .5, .98].flatMap(x => [.1, .5, .9].map(y =>
    document.elementFromPoint(box.left + x * box.width, box.top + y * box.height))))
    .filter(found => !verdict.contains(found)).length;
})()"""
LEVELS = '[...document.querySelectorAll("h1, h2, h3, h4")].map(heading => Number(heading.tagName[1]))'
UNSCOPED = '[...document.querySelectorAll("th")].filter(cell => !cell.scope).length'
STUCK = """[...document.querySelectorAll("*")].filter(part => part.scrollWidth > part.clientWidth + 1
    && ["auto", "scroll"].includes(getComputedStyle(part).overflowX) && part.tabIndex < 0).length"""
AXE = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
    .filter(fault => ["serious", "critical"].includes(fault.impact))
    .map(fault => fault.id + ": " + fault.nodes.map(node => node.html.slice(0, 120)).join(" | ")))"""


def png(side: int) -> str:
    """A grey ramp, written by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes(255 * x // side for x in range(side)) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def row(place: int, role: str, classes: tuple[str, ...]) -> Row:
    """A row with every trace there is."""
    numbers = {
        "tar@1e-3": Number(value=90 - place, unit="%", n=4000, low=89.2 - place, high=90.7 - place, better="higher"),
        "agreement_with_fp32": Number(value=None, unit="%", note="of an embedding it is not asked"),
        "latency_p50": Number(value=1 + place, unit="ms", n=900, low=0.98 + place, high=1.03 + place),
        "latency_p99": Number(value=2 + place, unit="ms", n=900, low=1.9 + place, high=2.6 + place),
        "size": Number(value=0.1 * (place + 1), unit="MiB"),
    }
    counts = [[20 if i == j else (i * j + place) % 3 for j in range(len(classes))] for i in range(len(classes))]
    traces: dict[str, Any] = {
        "latency_ms": [1 + place + (p / 100) ** 8 for p in range(101)],
        "clock": {"seconds": [0, 1, 2, 30, 31], "mhz": [3400, 3300, 3400, 2800, 2900], "celsius": [50, 55, 60, 62, 63]},
        "roc": {"far": [1e-6, 1e-4, 1e-2, 1], "tar": [0.1, 0.5 - place / 20, 0.95, 1]},
        "confusion": {"classes": classes, "counts": counts},
        "confused": [[classes[0], classes[1], 7], [classes[2], classes[0], 3 + place]],
        "per_class": {"classes": classes, "n": [20 + i for i in range(len(classes))],
                      "recall": [95 - (i * place) % 7 for i in range(len(classes))]},
        "reliability": {"confidence": [0.3, 0.6, 0.95], "accuracy": [0.28, 0.5, 0.9 - place / 50], "n": [5, 20, 300]},
    }  # fmt: skip
    how = "Tango's score interval over 10,000 images: 31 lost, 25 won; McNemar's mid-p 0.43"
    compared = Comparison(
        metric="tar@1e-3", versus="fp32", kind="change", value=-0.31, low=-0.52, high=0.1, n=9, how=how
    )
    timed = Comparison(metric="latency_p50", versus="fp32", kind="ratio", value=0.64, n=1, how="one stretch of time")
    return Row(role=role, file=f"{role}.onnx", sha256=f"{place}a" * 32, precision="fp32", provider="CPU",
               numbers=numbers, conditions={"threads": 1, "thresholds": {"1e-3": 0.75}}, traces=traces,
               comparisons=(compared, timed) if role == "int8" else (),
               faults=("this one is broken",) if role == "plain" else ())  # fmt: skip


def full() -> tuple[Report, Verdict]:
    """A report with everything that can be drawn, names as long as people make them, and its verdict."""
    classes = tuple(f"class_{place}_of_a_rather_long_name" for place in range(20))
    drop = Rule(metric="tar@1e-3", of="int8", versus="fp32", drop_at_most=0.5, why="what INT8 may cost")
    floor = Rule(metric="tar@1e-3", of="fp32", at_least=80, why="of no use below")
    report = Report(
        created="2026-01-02T03:04:05Z", command=f"kd2edge bench {'a/very/long/path/' * 8}x.onnx --target onnx-cpu",
        target="onnx-cpu", device={"cpu": "Cortex", "flags": ["avx2", "avx512_vnni"], "gpus": []},
        versions={"onnxruntime": "1.31.1"}, suite_name="default", confidence=0.9833,
        suite=Suite(about="does it ship?", rules=(drop, floor)),
        rows=tuple(row(i, role, classes) for i, role in enumerate(("teacher", "plain", "fp32", "int8"))),
        regressions=(
            Regression(role="int8", versus="fp32", images=(png(28), png(28)), said="same; cosine 0.61 → 0.38"),
            Regression(role="int8", versus="fp32", images=(png(128),), said="fp32: cat; int8: dog; truth: cat"),
        ),
    )  # fmt: skip
    findings = (
        Finding(rule=floor, says="ship", reason="TAR@1e-3 of FP32 is 88 %", value=88, bound=80, low=87.2, high=88.7),
        Finding(rule=drop, says="undecided", reason="INT8 loses 0.31 points", value=0.31, bound=0.5, low=-0.1, high=0.7,
                more=2400, towards="ship"),
        Finding(rule=drop, says="hold", reason="fp16 is missing"),
        Finding(rule=floor.model_copy(update={"advice": True}), says="advice", reason="it might be better", value=88,
                bound=88, low=88, high=88),
    )  # fmt: skip
    differences = ("onnxruntime 1.30.0 → 1.31.1", "governor performance → powersave")
    errors = "A model that breaks a rule ships in at most 2.5 % of benches."
    verdict = Verdict(verdict="hold", findings=findings, recommend="int8", because="INT8 is 1.6x faster than FP32 here",
                      errors=errors, differences=differences)  # fmt: skip
    return report, verdict


def past() -> History:
    """Fourteen moments of the same rows, with long names, changed conditions, and one without numbers."""
    report, _ = full()
    numbers = {row.role: row.numbers for row in report.rows}
    moments = tuple(
        Moment(name=f"{place:07x}" if place % 5 else f"runs/faces-of-a-long-name/{place}", said="a subject of a commit",
               created=f"2026-01-{place + 1:02}T00:00:00Z", numbers=numbers if place != 3 else {},
               differences=("onnxruntime 1.30.0 → 1.31.1", "governor performance → powersave") if place == 7 else ())
        for place in range(14)
    )  # fmt: skip
    metrics = ("tar@1e-3", "agreement_with_fp32", "latency_p50", "size")
    return History(source="a/very/long/path/" * 8, suite="default", target="onnx-cpu", metrics=metrics,
                   moments=moments, notes=("other is of quick on onnx-cpu",))  # fmt: skip


@pytest.fixture(scope="module", params=["report", "history"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def written(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / f"{kind}.html"
    if kind == "history":
        return write_history(past(), path)
    event = {
        "role": "int8",
        "kind": "onnx",
        "file": "int8.onnx",
        "sha256": "3a" * 32,
        "verb": "quantize",
        "time": "now",
    }
    losses = {"fp32": [{"stage": s, "epoch": e, "loss": 3.0 / e} for s in ("warm", "distil") for e in range(1, 4)]}
    return write_page(*full(), losses, path, [event])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    program = chromium.program()
    if program is None:
        pytest.skip("no chromium or chrome on PATH")
    with chromium.browse(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def page(browser: chromium.Page, written: Path) -> chromium.Page:
    browser.open(written)
    return browser


@pytest.mark.parametrize(("width", "dark", "media"), LOOKS)
def test_the_page_fits_is_named_and_hides_no_verdict(
    page: chromium.Page, kind: str, width: int, dark: bool, media: str
) -> None:
    page.look(width, dark, media)
    assert page.ask(OVER) <= 0
    assert page.ask(HIDDEN) == 0
    images = page.ask(IMAGES)
    assert len(images) == (3 if kind == "report" else 0)
    assert all(images)
    assert page.ask("document.querySelectorAll('svg').length") >= (10 if kind == "report" else 3)
    assert page.ask(UNNAMED) == 0
    assert page.ask(STUCK) == 0


def test_headings_are_in_order_and_tables_have_headers(page: chromium.Page) -> None:
    levels = page.ask(LEVELS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.ask(UNSCOPED) == 0


def test_both_themes_differ_and_paper_shows_what_is_folded(page: chromium.Page, kind: str) -> None:
    colours = []
    for dark in (False, True):
        page.look(1280, dark)
        colours.append(page.ask("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    if kind != "report":
        return  # nothing is folded
    height = "document.querySelector('details:not([open])').getBoundingClientRect().height"
    before = page.ask(height)
    page.look(720, media="print")
    assert page.ask(height) > 2 * before


def test_axe_finds_nothing_serious(page: chromium.Page) -> None:
    script = os.environ.get("KD2EDGE_AXE")
    if not script:
        pytest.skip("KD2EDGE_AXE names no axe.min.js")
    page.ask(Path(script).read_text(encoding="utf-8") + "; true")
    for width, dark in ((width, dark) for width in WIDTHS for dark in (False, True)):
        page.look(width, dark)
        assert page.ask(AXE) == [], (width, dark)


def test_the_console_stays_empty_and_nothing_is_fetched(page: chromium.Page, written: Path) -> None:
    """Last, so that it sees what all looks before have caused."""
    told = [
        e
        for e in page.events
        if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    ]
    assert json.dumps(told) == "[]"
    asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert written.as_uri() in asked
    assert [url for url in asked if url != written.as_uri() and not url.startswith("data:")] == []


def test_these_looks_see_what_is_wrong(page: chromium.Page, written: Path, tmp_path: Path) -> None:
    """The same page with faults put into it."""
    broken = """<p style="width: 400px">wide</p><img src="missing.png"><svg></svg>
        <div style="position: fixed; inset: 0"></div><script>console.log(1)</script>
        <div style="overflow: auto; width: 50px"><p style="width: 90px">out of reach</p></div>"""
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(written.read_text(encoding="utf-8").replace("</main>", f"{broken}</main>"), encoding="utf-8")
    page.look(375)
    page.open(spoiled)
    assert page.ask(OVER) > 0
    assert page.ask(HIDDEN) > 0
    assert not all(page.ask(IMAGES))
    assert (page.ask(UNNAMED), page.ask(STUCK)) == (1, 1)
    assert {event["method"] for event in page.events} >= {"Runtime.consoleAPICalled", "Log.entryAdded"}
    assert any(e["params"]["request"]["url"].endswith("missing.png") for e in page.events if "request" in e["params"])
