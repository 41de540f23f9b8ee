"""What the gate tells: an explanation to people, JUnit to a CI, a summary to a pull request; and CI that runs."""

import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from kd2edge.cli import app
from kd2edge.edge.gate import judge
from kd2edge.report.explain import explanation
from kd2edge.report.junit import junit
from kd2edge.report.markdown import markdown
from kd2edge.report.model import Report, write_json
from tests.judged import number, report, row, rule, with_comparison, with_conditions
from tests.tables import ROOT

RULES = (
    rule(metric="top1", at_least=90.0, why="of no use below"),
    rule(metric="top1", at_least=92.5, why="as good as the last"),
    rule(metric="top1", at_least=99.0, why="a dream"),
    rule(metric="top5", at_least=99.0, why="never measured"),
    rule(metric="size", versus="fp32", ratio_at_most=0.6, why="it shrank"),
    rule(metric="latency_p50", versus="fp32", ratio_at_most=1.0, advice=True, why="or why bother"),
)


@pytest.fixture
def mixed() -> Report:
    """A rule of each answer: ship, undecided, hold, not to be judged, ship, advice."""
    return report(*RULES)


def explained(of: Report, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with console.capture() as capture:
        console.print(explanation(judge(of)))
    console.file.close()
    return capture.get()


def test_junit_is_red_wherever_it_does_not_ship(mixed: Report) -> None:
    root = ET.fromstring(junit(mixed, judge(mixed)))
    cases = list(root.iter("testcase"))
    red = [case.find("failure") is not None or case.find("error") is not None for case in cases]
    assert red == [False, True, True, True, False, False, True]
    told = [child for case in cases for child in case]
    assert [child.tag for child in told] == [
        "system-out", "failure", "failure", "error", "system-out", "skipped", "failure",
    ]  # fmt: skip
    assert [child.get("type") for child in told if child.tag in ("failure", "error")] == [
        "undecided", "hold", "hold", "hold",
    ]  # fmt: skip
    assert str(told[1].get("message")).startswith("top-1 of INT8 is 92.80 % (95 % interval 92.20 to 93.40)")
    assert [case.get("name") for case in cases][:2] == ["int8 top-1 at least 90", "int8 top-1 at least 92.5"]
    (suite,) = root.iter("testsuite")
    for counted in (root, suite):
        counts = [counted.get(key) for key in ("tests", "failures", "errors", "skipped")]
        assert counts == ["7", "3", "1", "1"]


def test_junit_of_no_rules_is_red_and_of_what_ships_green(mixed: Report) -> None:
    empty = report()
    assert [case.tag for case in ET.fromstring(junit(empty, judge(empty))).iter("failure")] == ["failure"]
    good = report(RULES[0], RULES[4])
    assert not [*ET.fromstring(junit(good, judge(good))).iter("failure")]


def test_junit_is_the_same_bytes_and_takes_any_name(mixed: Report) -> None:
    odd = row("int8", faults=('<&"\x00\x1b[31m ]]> \ud800',))
    broken = report(RULES[0], rows=(odd,), suite_name="<s> & \x08")
    made = junit(broken, judge(broken))
    assert made == junit(broken, judge(broken))
    (error,) = ET.fromstring(made).iter("error")
    assert '<&"[31m ]]> ' in str(error.get("message"))


def test_the_summary_has_the_answer_the_rules_and_the_numbers(mixed: Report) -> None:
    before = report().model_copy(update={"versions": {"onnxruntime": "1.0"}})
    lines = markdown(mixed, judge(mixed, before)).splitlines()
    assert lines[0] == "## ✗ HOLD: s on t"
    assert "| ✓ ship | int8 top-1 at least 90<br>of no use below | top-1 of INT8 is 92.80 % " in "\n".join(lines)
    assert sum(line.startswith("| ? undecided |") for line in lines) == 1
    assert "|  | top-1 % | latency p50 ms | size MiB |" in lines
    assert "| int8 | 92.80<br>92.20–93.40 | 0.500<br>0.490–0.510 | 0.50 |" in lines
    assert "- onnxruntime 1.0 → 1.30.0" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {4, 5}
    assert "intervals of 95 %" in lines[-1]


def test_a_summary_is_text_whatever_names_say() -> None:
    nasty = "a|b\n<img src=x> [l](u) *b* `c` # h"
    shown = report(rule(metric="top1", at_least=1, why=nasty), rows=(row("int8", faults=(nasty,)),), suite_name=nasty)
    text = markdown(shown, judge(shown))
    assert "<img" not in text
    assert not re.search(r"(?<!\\)[\[`*]", text)
    assert {re.sub(r"\\\|", "", line).count("|") for line in text.splitlines() if line.startswith("|")} == {4, 5}


def test_an_explanation_says_what_each_answer_rests_on_and_what_would_change_it(mixed: Report) -> None:
    text = explained(mixed, width=200)
    told = (re.sub(r"\s+", " ", part) for part in re.split(r"\n\s*\n", text))
    parts = dict(zip(("ship", "undecided", "hold", "none", "exact", "advice"), told, strict=False))
    assert "✓ ship int8 top-1 at least 90" in parts["ship"]
    assert "why of no use below" in parts["ship"]
    assert "interval 92.2 to 93.4, judged against 90" in parts["ship"]
    assert "to ship" not in parts["ship"]
    assert re.search(
        r"to ship about [\d,]+ more samples, if the truth is what was found; or a bound of 92.2 or less",
        parts["undecided"],
    )
    assert "to ship a bound of 92.2 or less" in parts["hold"]
    assert "to ship it needs a number that can be judged" in parts["none"]
    assert "from the two values alone" in parts["exact"]
    assert "from 3 rounds in turns, 30 stretches resampled" in parts["advice"]
    assert "By chance a model that breaks a rule" in text


def test_an_explanation_of_a_doubt_asks_for_no_other_bound() -> None:
    shaky = with_conditions(report(rule(metric="latency_p99", at_most=5.0)), "int8", unstable=True)
    assert "to ship   a bench without what is said above against it" in explained(shaky, 200)
    wide = with_comparison(report(rule(metric="top1", versus="fp32", drop_at_most=0.5)), "top1", low=None, high=None)
    assert "it needs an interval" in explained(wide, 200)


def test_explanations_fit_a_narrow_terminal(mixed: Report) -> None:
    assert max(map(len, explained(mixed).splitlines())) <= 80


def test_the_command_writes_all_of_them(mixed: Report, tmp_path: Path) -> None:
    path = write_json(mixed, tmp_path / "report.json")
    xml, summary = tmp_path / "out" / "gate.xml", tmp_path / "out" / "gate.md"
    result = CliRunner().invoke(app, ["gate", str(path), "--explain", "--junit", str(xml), "--markdown", str(summary)])
    assert result.exit_code == 1
    assert ET.parse(xml).getroot().get("errors") == "1"
    assert summary.read_text(encoding="utf-8") == markdown(mixed, judge(mixed))
    assert "to ship" in result.stdout
    assert result.stdout.count("HOLD") == 1


def test_the_help_of_the_gate_fits_a_small_screen() -> None:
    lines = CliRunner().invoke(app, ["gate", "--help"], terminal_width=80).stdout.splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80


def steps(name: str) -> tuple[str, dict[str, str]]:
    """The shell of a CI file as one script, and the variables that it sets."""
    read: dict[Any, Any] = yaml.safe_load((ROOT / "docs" / "ci" / name).read_text(encoding="utf-8"))
    if "jobs" in read:
        shells = [step["run"] for step in read["jobs"]["gate"]["steps"] if "run" in step]
        return "\n".join(shells), read["env"]
    return "\n".join(read["gate"]["script"]), read["variables"]


CI = ("github-actions.yml", "gitlab-ci.yml")


def commands(script: str) -> Iterator[list[str]]:
    for line in re.findall(r"^\s*(kd2edge [^|\n]*)", script, re.MULTILINE):
        yield shlex.split(line.replace('"$@"', "--baseline baseline.json").replace("$RECIPE", "omniglot"))[1:]


@pytest.mark.parametrize("name", CI)
def test_the_commands_of_a_ci_example_are_commands(name: str) -> None:
    parsed = []
    root: Any = typer.main.get_command(app)
    for verb, *arguments in commands(steps(name)[0]):
        parsed.append(root.commands[verb].make_context(verb, arguments).params)
    assert [sorted(one)[:1] for one in parsed] != []
    assert [one.get("run") for one in parsed] == [Path("runs/ci"), None]
    assert (parsed[1]["source"], parsed[1]["junit"]) == (Path("runs/ci"), Path("gate.xml"))


@pytest.mark.parametrize(("name", "floor", "based"), [(CI[0], 90.0, False), (CI[1], 92.5, True)])
def test_a_ci_example_runs_as_it_stands(name: str, floor: float, based: bool, tmp_path: Path) -> None:
    """Its shell is run, but for the training, in whose place a report is copied, and the installation."""
    made = report(rule(metric="top1", at_least=floor))
    write_json(made, tmp_path / "made.json")
    if based:
        write_json(made.model_copy(update={"versions": {}}), tmp_path / "baseline.json")
    script, variables = steps(name)
    judged = script.partition("kd2edge gate")[0].rpartition("\n")[0]
    assert judged, "the gate is not the first thing that is run"
    stubs = (
        "python() { test \"$*\" = '-m pip install kd2edge[train]'; }\n"
        'kd2edge() { if [ "$1" = ship ]; then mkdir -p "$4"; cp made.json "$4/report.json"; return 1; '
        f'else "{sys.executable}" -m kd2edge "$@"; fi; }}\n'
    )
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(tmp_path / "told.md")}
    shell = ["bash", "-e", "-o", "pipefail", "-c", stubs + script]
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
    expected = {90.0: 0, 92.5: 3}[floor]
    assert done.returncode == expected, done.stdout + done.stderr
    assert bool([*ET.parse(tmp_path / "gate.xml").iter("failure")]) == (expected != 0)
    assert ("onnxruntime none → 1.30.0" in (tmp_path / "gate.md").read_text(encoding="utf-8")) == based
    assert (tmp_path / "runs" / "ci" / "verdict.json").is_file()
    if name == CI[0] and expected == 0:
        assert (tmp_path / "told.md").read_text() == (tmp_path / "gate.md").read_text()


def test_no_example_names_a_registry() -> None:
    for name in CI:
        text = (ROOT / "docs" / "ci" / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "index-url" not in text


def test_numbers_that_no_rule_names_stay_out_of_the_summary() -> None:
    shown = report(RULES[0], rows=(row("int8", numbers={"top1": number(95.0, "%", 1.0), "eer": number(3.0, "%")}),))
    assert "EER" not in markdown(shown, judge(shown))
