"""`bench --quick`, from the command line to the verdict: it shortens any suite, says so, and ships nothing by speed."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from kd2edge.cli import app
from kd2edge.edge.gate import judge
from kd2edge.report.model import Report, read_report
from kd2edge.schema import Suite, quickened
from tests import tiny
from tests.test_verbs import model

LATENCY = {"warmup_ms": 300, "seconds": 600, "min_samples": 90}
RULES = [
    {"metric": "latency_p50", "of": "fp32", "at_most": 1e6, "why": "any model in the world is faster"},
    {"metric": "size", "of": "fp32", "at_most": 1000, "why": "any small model is smaller"},
]


def test_quick_shortens_what_is_long_and_says_so() -> None:
    asked = [{"kind": "server", "bound_ms": 15}, {"kind": "offline", "seconds": 0.5}, {"kind": "single_stream"}]
    suite = Suite.model_validate({"about": "x", "rules": [], "scenarios": asked, "sweep": {"batches": [1, 2]}})
    quick = quickened(suite)
    assert (quick.quick, suite.quick, quick.latency.seconds) == (True, False, 1.5)
    assert [scenario.seconds for scenario in quick.scenarios] == [pytest.approx(2 / 6), 0.5, 2.0]
    assert quick.sweep is not None
    assert (quick.sweep.seconds, quick.sweep.batches) == (0.5, (1, 2))
    assert quick.rules == suite.rules
    assert quickened(quick) == quick


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("quick")
    suite = folder / "long.yaml"
    suite.write_text(yaml.safe_dump({"about": "ten minutes a row", "latency": LATENCY, "rules": RULES}))
    data = tiny.image_folder(folder / "images", per_class=2)
    words = ["bench", model(folder / "net.onnx"), "--suite", suite, "--data", data, "--preprocess", "zero-one"]
    out = folder / "report.json"
    done = CliRunner().invoke(app, [*map(str, words), "--quick", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["suite"]["quick"] is True
    return done.stderr, out


def test_the_report_says_what_it_may_not_claim(quick: tuple[str, Path]) -> None:
    said, path = quick
    report: Report = read_report(path)
    assert (report.suite.quick, report.suite.latency.seconds, report.suite.latency.warmup_ms) == (True, 1.5, 100)
    assert report.command.endswith(" --quick")
    assert "No claim about speed may rest on it" in " ".join(said.split())
    assert "No claim about speed may rest on it" in path.with_suffix(".html").read_text()


def test_no_rule_on_speed_ships_by_it(quick: tuple[str, Path]) -> None:
    verdict = judge(read_report(quick[1]))
    assert [finding.says for finding in verdict.findings] == ["undecided", "ship"]
    assert "--quick" in verdict.findings[0].reason
    assert verdict.verdict == "undecided"


def test_it_is_no_baseline(quick: tuple[str, Path], tmp_path: Path) -> None:
    accepted = tmp_path / "baseline.json"
    done = CliRunner().invoke(app, ["gate", str(quick[1]), "--accept", str(accepted)])
    assert done.exit_code == 3
    assert not accepted.exists()
