"""Against a baseline: what is compared, what changed since, who may become one, and the answers of the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kd2edge.cli import app
from kd2edge.edge.differences import differences
from kd2edge.edge.gate import judge
from kd2edge.report.model import Regression, Report, read_report, write_json
from kd2edge.schema import Latency
from kd2edge.verbs.gate import gate
from tests.judged import DEVICE, number, report, row, rule, with_conditions, with_number, with_row

DROP: dict[str, Any] = {"metric": "top1", "versus": "baseline", "drop_at_most": 1.5}
SLOWER: dict[str, Any] = {"metric": "latency_p50", "versus": "baseline", "ratio_at_most": 1.1}


class Sayings:
    """A terminal that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, what: str, total: int) -> None: ...

    def advance(self, steps: int = 1, **figures: float | str) -> None: ...

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def slow() -> Report:
    """INT8 a fifth slower than `judged` has it."""
    return with_number(report(rule(**SLOWER)), "int8", "latency_p50", value=0.6, low=0.59, high=0.61)


def test_a_regression_names_everything_else_that_changed() -> None:
    now = with_conditions(slow(), "int8", resumed=True)
    now = now.model_copy(update={"versions": {"kd2edge": "0.1.0", "onnxruntime": "1.31.1", "tensorrt": "10.3"}})
    now = now.model_copy(update={"device": {**DEVICE, "governor": "powersave", "load": 3.0}})
    verdict = judge(now, report())
    assert verdict.verdict == "hold"
    assert verdict.differences == (
        "onnxruntime 1.30.0 → 1.31.1",
        "tensorrt none → 10.3",
        "load 0.1 → 3",
        "governor performance → powersave",
        "int8: resumed none → yes",
    )
    (finding,) = verdict.findings
    assert finding.reason.startswith("INT8 has 1.2x the latency p50 of baseline (0.5 → 0.6 ms; 95 % interval ")
    assert finding.reason.endswith(f"; changed since the baseline: {', '.join(verdict.differences)}")
    assert judge(slow(), report()).findings[0].reason.endswith("at most 1.1x allowed")


def test_every_condition_that_may_slow_a_model_is_named() -> None:
    before = with_conditions(
        report(), "int8", threads=2, watch={"looks": 9, "mhz": [2100.0, 2200.0]}, fp32_threshold=0.5
    )
    before = before.model_copy(update={"suite": before.suite.model_copy(update={"latency": Latency(batch=4)})})
    before = with_row(before, "fp32", provider="GPU")
    now = with_conditions(report(), "int8", watch={"looks": 7, "mhz": [1500.0, 2200.0]}, fp32_threshold=0.4)
    assert set(differences(now, before)) == {
        "latency batch 4 → 1",
        "int8: threads 2 → 1",
        "int8: mhz 2100 2200 → 1500 2200",
        "fp32: provider GPU → CPU",
    }
    both = with_conditions(with_conditions(now, "fp32", threads=8), "int8", threads=8)
    assert "threads 1 → 8" in differences(both, report())
    assert differences(report(), report()) == ()


def test_other_images_are_told_by_their_digest() -> None:
    moved = with_conditions(report(rule(**DROP)), "int8", data={"sha256": "e" * 64, "images": 9})
    assert "int8: data sha256 dddddddddddd → eeeeeeeeeeee" in differences(moved, report())
    assert judge(moved, report()).verdict == "hold"


def test_identity_holds_and_the_rest_is_told_beside_a_verdict_that_ships() -> None:
    now = report(rule(**SLOWER))
    newer = now.model_copy(update={"versions": {"onnxruntime": "2.0"}})
    verdict = judge(newer, report())
    assert verdict.verdict == "ship"
    assert "onnxruntime 1.30.0 → 2.0" in verdict.differences
    other = judge(now.model_copy(update={"device": {**DEVICE, "cpu": "B"}}), report())
    assert other.verdict == "hold"
    assert "another device: cpu B against A" in other.findings[0].reason
    assert "cpu A → B" in other.differences


def test_a_baseline_that_no_rule_asks_for_is_compared_and_said_to_decide_nothing(tmp_path: Path) -> None:
    now = report(rule(metric="top1", at_least=90.0)).model_copy(update={"versions": {}})
    path, before = write_json(now, tmp_path / "report.json"), write_json(report(), tmp_path / "before.json")
    told = Sayings()
    verdict = gate(path, before, told)
    assert verdict.verdict == "ship"
    assert "onnxruntime 1.30.0 → none" in verdict.differences
    assert "No rule of the suite s compares with a baseline: it decided nothing." in told.said


@pytest.fixture
def good(tmp_path: Path) -> Path:
    traced = with_row(report(rule(metric="top1", at_least=90.0)), "int8", traces={"latency_ms": [0.1, 0.2]})
    shown = Regression(role="int8", versus="fp32", images=("aGk=",), said="a cat")
    return write_json(traced.model_copy(update={"regressions": (shown,)}), tmp_path / "report.json")


def test_what_ships_becomes_the_baseline_without_pictures(good: Path, tmp_path: Path) -> None:
    accepted, told = tmp_path / "kept" / "baseline.json", Sayings()
    assert gate(good, progress=told, accept=accepted).verdict == "ship"
    kept = read_report(accepted)
    assert kept.rows == tuple(one.model_copy(update={"traces": {}}) for one in read_report(good).rows)
    assert kept.regressions == ()
    assert told.said[-1] == f"Accepted: {accepted} is the baseline now."
    following = write_json(report(rule(**DROP), rule(**SLOWER)), tmp_path / "next.json")
    assert gate(following, accepted, accept=accepted).verdict == "ship"


@pytest.mark.parametrize(
    ("floor", "quick", "verdict", "why"),
    [(99.0, False, "hold", "the verdict is hold"), (92.5, False, "undecided", "the verdict is undecided"),
     (90.0, True, "ship", "it was measured with --quick")],
)  # fmt: skip
def test_only_what_ships_becomes_a_baseline(floor: float, quick: bool, verdict: str, why: str, tmp_path: Path) -> None:
    asked = report(rule(metric="top1", at_least=floor), suite={"quick": quick})
    path, kept, told = write_json(asked, tmp_path / "report.json"), tmp_path / "baseline.json", Sayings()
    kept.write_text("as it was")
    assert gate(path, progress=told, accept=kept).verdict == verdict
    assert kept.read_text() == "as it was"
    assert told.said[-1].startswith(f"Not accepted: only what ships becomes a baseline, and {why}")


@pytest.mark.parametrize(("metric", "says"), [("cosine_to_fp32", "hold"), ("top1", "hold"), ("size", "ship")])
def test_what_was_asked_of_unknown_images_holds(metric: str, says: str) -> None:
    asked = report(rule(metric=metric, versus="baseline", ratio_at_most=1.2))
    now, before = (with_conditions(one, "int8", data=None) for one in (asked, report()))
    assert judge(asked, report()).verdict == "ship"
    assert judge(now, before).verdict == says


def test_a_report_is_no_baseline_of_itself(tmp_path: Path) -> None:
    path = write_json(report(rule(**DROP)), tmp_path / "report.json")
    for itself in (path, tmp_path):
        result = run(path, "--baseline", itself)
        assert result.exit_code == 2
        assert "its own baseline" in " ".join(result.stderr.split())


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["gate", *map(str, arguments)])


def test_the_exit_code_is_the_verdicts_whatever_is_accepted(good: Path, tmp_path: Path) -> None:
    kept = tmp_path / "baseline.json"
    assert run(good, "--accept", kept).exit_code == 0
    assert kept.is_file()
    slower = write_json(slow(), tmp_path / "slow.json")
    held = run(slower, "--baseline", kept, "--accept", tmp_path / "no.json")
    assert held.exit_code == 1
    assert "Not accepted" in held.stdout
    assert not (tmp_path / "no.json").exists()
    alone = run(slower)
    assert alone.exit_code == 1
    assert "no baseline to be compared with" in " ".join(alone.stdout.split())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"report": 2}', "NaN", "\x00\xff", '{"report": 1, "rows": []}'], ids=repr
)
def test_what_is_no_report_is_asked_wrongly(text: str, good: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(text)
    for arguments in ((broken,), (good, "--baseline", broken), (good, "--baseline", tmp_path / "gone.json")):
        result = run(*arguments, "--accept", tmp_path / "no.json")
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert not (tmp_path / "no.json").exists()


def test_a_number_that_is_no_json_is_no_report(good: Path) -> None:
    text = good.read_text()
    assert '"value":92.8' in text.replace(" ", "")
    good.write_text(text.replace("92.8", "NaN"))
    assert run(good).exit_code == 2
    good.write_text(text.replace('"value": 92.8', '"value": null'))
    assert run(good).exit_code == 1


def test_a_report_of_an_older_kd2edge_is_judged_by_what_it_has(tmp_path: Path) -> None:
    """It has neither comparisons nor a confidence, and its TAR no interval: nothing about samples ships by it."""
    rules = rule(metric="tar@1e-3", versus="fp32", drop_at_most=0.5), rule(metric="size", at_most=1.0)
    tars = {"tar@1e-3": number(70.0, "%", n=125_210), "size": number(0.1, "MiB")}
    rows = row("int8", numbers=tars, comparisons=()), row("fp32", numbers=tars)
    document = json.loads(report(*rules, rows=rows).model_dump_json())
    for key in ("confidence", "regressions"):
        del document[key]
    for one in document["rows"]:
        del one["comparisons"], one["traces"]
    for key in ("confidence", "signed", "quick"):
        del document["suite"][key]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    result = run(path, "--json")
    assert result.exit_code == 3
    verdict = json.loads(result.stdout.splitlines()[-1])
    assert [finding["says"] for finding in verdict["findings"]] == ["undecided", "ship"]


def test_a_file_that_must_not_be_written_is_refused_before_anything_is_judged(good: Path, tmp_path: Path) -> None:
    for option in ("--accept", "--junit", "--markdown"):
        for place in (good, tmp_path, "/dev/null"):
            result = run(good, option, place)
            assert result.exit_code == 2
            assert str(place) in result.stderr
    assert read_report(good).rows
    assert Path("/dev/null").is_char_device()
    assert not good.with_name("verdict.json").exists()
