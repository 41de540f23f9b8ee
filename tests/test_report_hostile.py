"""What odd names, images and traces do to the page: they are shown as text, or left out; they never run nor stop it."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd2edge import drawers
from kd2edge.report import distributions, figures
from kd2edge.report.history import History, Moment, history_table, write_history
from kd2edge.report.lineage import commands
from kd2edge.report.model import Finding, Number, Regression, Report, Row, Verdict
from kd2edge.report.page import _small, write_page
from kd2edge.schema import Rule, Suite
from tests.test_report_browser import full, png

# Ends a tag, an attribute, a comment; names a handler; and is no formula that matplotlib could set.
HOSTILE = """<script>alert(1)</script>" onload="x' --> ]]> $\\frac{$ [/b]"""
NAMES = {"role", "versus", "file", "provider", "reason", "why", "how", "said", "because", "errors", "command", "target",
         "suite_name", "about", "created", "sha256", "note", "unit"}  # fmt: skip


class Tags(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def spoilt(found: Any, key: str = "") -> Any:
    """A dumped model of which every text that people or files give is hostile."""
    if isinstance(found, dict):
        return {name: spoilt(value, name) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(spoilt(value, key) for value in found)
    return found + HOSTILE if isinstance(found, str) and key in NAMES | {"classes", "confused", "images"} else found


def harmless(page: Path) -> Tags:
    found = Tags(page)
    assert "script" not in found.tags
    assert not {name for name in found.attributes if name.startswith("on")}
    return found


@pytest.mark.filterwarnings("ignore:constrained_layout")  # names that leave no room for a drawing
def test_hostile_text_stays_text(tmp_path: Path) -> None:
    report, verdict = full()
    hostile = Report.model_validate(spoilt(report.model_dump()))
    findings = tuple(Finding.model_validate(spoilt(finding.model_dump())) for finding in verdict.findings)
    judged = Verdict(verdict="hold", findings=findings, because=HOSTILE, errors=HOSTILE, differences=(HOSTILE,))
    event = dict.fromkeys(("role", "kind", "file", "sha256", "verb", "time"), HOSTILE)
    losses = {HOSTILE: [{"stage": f"{stage}{HOSTILE}", "loss": 1.0} for stage in ("warm", "distil")]}
    page = harmless(write_page(hostile, judged, losses, tmp_path / "x.html", [event]))
    assert page.text.count("<script>alert(1)</script>") > 50
    for name in ("class_0_of_a_rather_long_name", "int8.onnx", "warm"):
        assert f"{name}<script>" in page.text


def test_dollars_in_names_are_no_formulas(tmp_path: Path) -> None:
    """A file that is the second of its role lends the row its name."""
    report, _ = full()
    named = report.model_copy(update={"rows": tuple(r.model_copy(update={"role": "a$x^2$"}) for r in report.rows[:1])})
    losses = {"fp32": [{"stage": "$1 to $2", "loss": 1.0}, {"stage": "b", "loss": 0.5}]}
    text = write_page(named, None, losses, tmp_path / "x.html").read_text()
    assert text.count(">a$x^2$</text>") >= 4
    assert ">$1 to $2</text>" in text


def test_an_image_that_is_none_is_one_attribute(tmp_path: Path) -> None:
    for odd in ("", "é", "no png", "iVBORw0KGgo=", "A" * 40, 'x" onerror="alert(1)'):
        assert not _small(odd)
        case = Regression(role="int8", versus="fp32", images=(odd,), said=odd)
        harmless(
            write_page(full()[0].model_copy(update={"rows": (), "regressions": (case,)}), None, {}, tmp_path / "x")
        )
    assert _small(png(28))
    assert not _small(png(65))


BEYOND = [
    ("latency_ms", [-1.0] * 101), ("latency_ms", [1e308] * 101), ("clock", {"seconds": [0], "mhz": [-1]}),
    ("roc", {"far": [0.1], "tar": [90]}), ("roc", {"far": [1.5], "tar": [1]}),
    ("confusion", {"classes": ["a", "b"], "counts": [[-1, 3], [2, 2]]}), ("confused", [["a", "b", -1]]),
    ("per_class", {"classes": ["a"], "n": [-1], "recall": [1]}),
    ("per_class", {"classes": ["a"], "n": [1], "recall": [101]}),
    ("reliability", {"confidence": [0.5], "accuracy": [50], "n": [1]}),
    ("reliability", {"confidence": [0.5], "accuracy": [0.5], "n": [10**400]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "beyond"), BEYOND)
def test_what_no_machine_measures_is_left_out(name: str, beyond: Any, tmp_path: Path) -> None:
    rows = tuple(bare(role, traces={name: beyond}) for role in ("fp32", "int8"))
    page = write_page(told(*rows), None, {}, tmp_path / "x.html")
    assert not {"svg", "details"} & Tags(page).tags
    assert "taken for" not in Tags(page).text


def bare(role: str, **fields: Any) -> Row:
    given = {"numbers": {}} | fields
    return Row(role=role, file=f"{role}.onnx", sha256="0", precision="fp32", provider="CPU", **given)


def told(*rows: Row, **fields: Any) -> Report:
    given = {"suite": Suite(about="", rules=())} | fields
    return Report(created="2026-01-02", command="kd2edge bench x.onnx", target="onnx-cpu", device={}, versions={},
                  suite_name="s", rows=rows, **given)  # fmt: skip


@pytest.mark.parametrize("celsius", [[-10, -10], [-20, -5], [0, 0], [40, 40]])
def test_a_line_below_freezing_is_inside_its_drawing(celsius: list[float]) -> None:
    cold = told(bare("int8", traces={"clock": {"seconds": [0, 1], "celsius": celsius}}))
    drawing = distributions.clocks(cold)["Temperature"]
    dashes = r'<path d="M [\d.]+ ([\d.-]+) \s*L [\d.]+ ([\d.-]+) [^>]*stroke: var\(--series-0\)'
    line = re.search(dashes, drawing.replace("\n", " "))
    height = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawing)
    assert line is not None
    assert height is not None
    assert all(20 < float(y) < float(height[1]) - 25 for y in line.groups())


def test_captions_say_what_is_so(tmp_path: Path) -> None:
    def page(*rows: Row, **fields: Any) -> str:
        return Tags(write_page(told(*rows, **fields), None, {}, tmp_path / "x.html")).text

    def pictured(better: Any) -> Row:
        error = Number(value=5, unit="%", better=better)
        return bare("fp32", numbers={"eer": error, "latency_p50": Number(value=1, unit="ms")})

    assert "Down and to the left is better" in page(pictured("lower"))
    assert "Up and to the left is better" in page(pictured("higher"))
    assert "fresh processes for each row that take turns" in page(pictured("lower"))

    def recalls(role: str, *names: str) -> Row:
        series = {"classes": names, "n": [20] * len(names), "recall": [50.0] * len(names)}
        return bare(role, traces={"per_class": series})

    assert "among the 2 of lowest recall" in page(recalls("fp32", "cat", "dog"), recalls("int8", "cat", "eel"))
    assert "of lowest recall" not in page(recalls("fp32", "cat", "dog"), recalls("int8", "dog", "cat"))


def test_a_command_can_be_typed() -> None:
    assert commands(told(), [], "it's mine.json")[1][0] == """kd2edge gate 'it'"'"'s mine.json'"""


def moments(*names: str) -> History:
    """Two roles, of which only the second has a cosine."""
    p50 = Number(value=1.5, unit="ms", low=1.4, high=1.6)
    numbers = {"fp32": {"latency_p50": p50}, "int8": {"latency_p50": p50, "cosine": Number(value=0.9, unit="")}}
    return History(source="runs", suite="s", target="t", metrics=("latency_p50", "cosine"), moments=tuple(
        Moment(name=name, created="2026-01-02", said=HOSTILE, numbers=numbers) for name in names))  # fmt: skip


def test_a_history_of_odd_names(tmp_path: Path) -> None:
    names = ("old[/b]", "old[red]", "a$\\frac{$", "x" * 300 + "-last", HOSTILE)
    found = moments(*names)
    console = Console(width=2000, color_system=None)
    with console.capture() as capture:
        console.print(history_table(found))
    assert all(capture.get().count(name) == 2 for name in names[:4])
    page = write_history(found, tmp_path / "history.html")
    assert all(name in harmless(page).text for name in names[:4])
    assert ">a$\\frac{$</text>" in page.read_text()
    assert "x-last</text>" in page.read_text()


def test_a_history_has_units_and_a_role_keeps_its_colour(tmp_path: Path) -> None:
    found = moments("a", "b")
    page = write_history(found, tmp_path / "history.html").read_text()
    assert '<th scope="col">latency p50 ms</th>' in page
    cosine = page[page.index("cosine over 2 reports") :].partition("</svg>")[0]
    assert "--series-1" in cosine
    assert "--series-0" not in cosine


def test_recipes_of_faces_are_judged_without_pictures() -> None:
    recipes = [drawers.read_recipe(name) for name in drawers.names("recipes")]
    faces = [recipe for recipe in recipes if recipe.data.name == "faces"]
    assert len(faces) >= 3
    assert not [recipe.about for recipe in faces if drawers.read_suite(recipe.suite).regressions]


def test_a_bound_is_told_with_its_sense() -> None:
    rule = Rule(metric="eer", of="int8", versus="fp32", rise_at_most=1, why="")
    finding = Finding(rule=rule, says="hold", reason="", value=-0.5, low=-1, high=0)
    assert figures.found(finding) == "rise −0.5 (−1 to 0)"
