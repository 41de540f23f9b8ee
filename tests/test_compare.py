"""What moved between two reports, and what a report's history in git says."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kd2edge.cli import app
from kd2edge.edge.changes import compared
from kd2edge.errors import UserError
from kd2edge.report.changes import Change
from kd2edge.report.model import Number, Report, Row, write_json
from kd2edge.schema import Rule, Suite
from kd2edge.verbs.compare import compare
from kd2edge.verbs.history import history

RULES = (Rule(metric="top1", of="int8", at_least=50, why="below this no one would use it"),)


def row(role: str = "int8", data: str = "d", faults: tuple[str, ...] = (), **numbers: Number) -> Row:
    fields: dict[str, Any] = {"role": role, "file": f"{role}.onnx", "sha256": "0", "precision": "fp32"}
    return Row(**fields, provider="CPU", numbers=numbers, conditions={"data": {"sha256": data}}, faults=faults)


def report(*rows: Row, created: str = "2026-01-01T00:00:00Z", **changed: Any) -> Report:
    fields: dict[str, Any] = {"command": "", "target": "onnx-cpu", "device": {"cpu": "A"}, "suite_name": "model"}
    fields |= {"versions": {"onnxruntime": "1.30.0"}, "suite": Suite(about="s", rules=RULES)}
    return Report(created=created, rows=rows, **(fields | changed))


def top1(value: float, half: float | None = 0.2) -> Number:
    ends = {} if half is None else {"low": value - half, "high": value + half}
    return Number(value=value, unit="%", n=10_000, better="higher", **ends)


def p50(value: float, half: float = 0.01) -> Number:
    return Number(value=value, unit="ms", low=value - half, high=value + half, better="lower")


def size(value: float) -> Number:
    return Number(value=value, unit="MiB", better="lower")


def only(before: Row, after: Row) -> Change:
    (change,) = compared(report(before), report(after), ("a", "b")).changes
    return change


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"top1": top1(90.0)}, {"top1": top1(91.0)}, "better"),
        ({"top1": top1(90.0)}, {"top1": top1(89.0)}, "worse"),
        ({"top1": top1(90.0)}, {"top1": top1(90.2)}, "within noise"),  # ± 0.28: the two intervals are 0.2 each
        ({"top1": top1(90.0)}, {"top1": top1(90.3)}, "better"),
        ({"top1": top1(90.0)}, {"top1": top1(90.0)}, "same"),
        ({"top1": top1(90.0, None)}, {"top1": top1(99.0, None)}, "not told"),  # an estimate without an interval
        ({"size": size(1.0)}, {"size": size(1.1)}, "worse"),  # read off the file
        ({"size": size(1.0)}, {"size": size(0.9)}, "better"),
        ({"size": size(1.0)}, {"size": size(1.0)}, "same"),
        ({"latency_p50": p50(1.0)}, {"latency_p50": p50(1.1)}, "worse"),
        ({"latency_p50": p50(1.0)}, {"latency_p50": p50(1.005)}, "within noise"),
    ],
)
def test_what_moved(before: dict[str, Any], after: dict[str, Any], moved: str) -> None:
    assert only(row(**before), row(**after)).moved == moved


def test_a_timing_is_a_ratio_and_a_share_a_difference() -> None:
    timing = only(row(latency_p50=p50(2.0)), row(latency_p50=p50(1.0)))
    assert (timing.kind, timing.value) == ("ratio", 0.5)
    assert timing.low is not None
    assert timing.low < 0.5 < (timing.high or 0) < 1
    share = only(row(top1=top1(90)), row(top1=top1(91)))
    assert (share.kind, share.value) == ("change", 1)
    assert share.low == pytest.approx(1 - 0.2 * 2**0.5)


def test_accuracy_on_other_images_is_not_compared() -> None:
    cosine = Number(value=0.99, unit="", n=10, better="higher")
    before = row(data="d", top1=top1(90), size=size(1), cosine_to_fp32=cosine)
    after = row(data="e", top1=top1(10), size=size(1), cosine_to_fp32=cosine)
    found = compared(report(before), report(after), ("a", "b"))
    assert [change.metric for change in found.changes] == ["size"]
    assert found.notes == ("int8 was measured on other images: only cost is compared",)


def test_rows_that_cannot_be_compared_are_named() -> None:
    before = report(row("fp32", size=size(1)), row("int8", size=size(1)))
    after = report(row("int8", faults=("it is gone",)), row("fp16", size=size(1)))
    found = compared(before, after, ("a", "b"))
    assert not found.changes
    assert found.notes == ("int8 is faulty: it is gone", "a has no row fp16", "b has no row fp32")


def test_what_else_changed_is_told(tmp_path: Path) -> None:
    old = write_json(report(row(top1=top1(90))), tmp_path / "a.json")
    new = write_json(report(row(top1=top1(88)), versions={"onnxruntime": "1.31.1"}), tmp_path / "b.json")
    assert "onnxruntime 1.30.0 → 1.31.1" in compare(old, new).differences
    told = CliRunner().invoke(app, ["compare", str(old), str(new)]).stdout
    assert "▼" in told
    assert "90.00" in told
    assert "onnxruntime 1.30.0 → 1.31.1" in told
    found = json.loads(CliRunner().invoke(app, ["compare", str(old), str(new), "--json"]).stdout)
    assert found["changes"][0]["moved"] == "worse"


def test_a_missing_report_is_a_sentence(tmp_path: Path) -> None:
    there = write_json(report(row()), tmp_path / "a.json")
    with pytest.raises(UserError, match="no report"):
        compare(there, tmp_path / "b.json")


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git on PATH")


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@needs_git
def test_the_history_of_a_baseline_in_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    path, said = tmp_path / "baseline.json", ["the first", "a new runtime", "broken", "gone", "the last"]
    runtimes = {"a new runtime": {"onnxruntime": "1.31.1"}, "the last": {"onnxruntime": "1.31.1"}}
    for day, subject in enumerate(said, 1):
        created = f"2026-01-0{day}T00:00:00Z"
        changed = {"versions": runtimes[subject]} if subject in runtimes else {}
        write_json(report(row(top1=top1(90 + day)), created=created, **changed), path)
        if subject == "broken":
            path.write_text("{")
        if subject == "gone":
            path.unlink()
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", subject)
    write_json(report(row(top1=top1(99)), created="2026-01-09T00:00:00Z", versions=runtimes["the last"]), path)
    found = history(path)
    assert [moment.said for moment in found.moments] == ["the first", "a new runtime", "the last", ""]
    assert found.moments[-1].name == "now"
    assert [moment.numbers["int8"]["top1"].value for moment in found.moments] == [91, 92, 95, 99]
    assert [moment.differences for moment in found.moments][:2] == [(), ("onnxruntime 1.30.0 → 1.31.1",)]
    assert any("no report" in note for note in found.notes)
    assert any("removed" in note for note in found.notes)
    page = (tmp_path / "history.html").read_text()
    assert page.count("<svg") == 1
    assert "a new runtime" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_history_of_a_folder_of_runs(tmp_path: Path) -> None:
    for name, day in (("b", 1), ("a", 2)):
        (tmp_path / name).mkdir()
        write_json(report(row(size=size(day)), created=f"2026-01-0{day}T00:00:00Z"), tmp_path / name / "report.json")
    (tmp_path / "other").mkdir()
    write_json(report(row(), suite_name="quick"), tmp_path / "other" / "report.json")
    found = history(tmp_path, ["size"])
    assert [moment.name for moment in found.moments] == ["b", "a"]
    assert found.notes == ("other is of quick on onnx-cpu",)
    result = CliRunner().invoke(app, ["history", str(tmp_path), "--metric", "size", "--json"])
    assert json.loads(result.stdout.splitlines()[-1])["metrics"] == ["size"]


def test_a_faulty_row_of_a_history_is_named(tmp_path: Path) -> None:
    write_json(report(row("fp32", size=size(1)), row(faults=("it is gone",))), tmp_path / "report.json")
    found = history(tmp_path, ["size"])
    assert list(found.moments[0].numbers) == ["fp32"]
    assert found.notes == (".: int8 is faulty: it is gone",)


def test_a_history_of_nothing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no report"):
        history(tmp_path)
    with pytest.raises(UserError, match="There is no report"):
        history(tmp_path / "baseline.json")


@needs_git
def test_a_report_that_git_does_not_keep(tmp_path: Path) -> None:
    lone = write_json(report(row()), tmp_path / "lone.json")
    with pytest.raises(UserError, match="git cannot tell"):
        history(lone)


def test_a_machine_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lone = write_json(report(row()), tmp_path / "lone.json")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no git here"):
        history(lone)
