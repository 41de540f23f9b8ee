"""Targets and suites: every declaration is read, says why, and stands in the table of its README."""

from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from kd2edge import drawers, shelves
from kd2edge.schema import Suite, Target

METRICS = {
    *("tar@1e-2", "tar@1e-3", "tar@1e-4", "eer", "oneshot_20way", "cosine_to_fp32"),
    *("top1", "top5", "agreement_with_fp32", "top1_over_chance", "tar_over_far", "integer_range"),
    *("pair_accuracy", "pair_tar@1e-2", "pair_tar@1e-3", "pair_val@1e-3", "subgroup_tar", "subgroup_tar_drop"),
    *("nearest_tar@1e-4", "nearest_tar@1e-5", "tar@1e-5", "tpir@1e-1", "tpir@1e-2", "rank1"),
    *("ece", "brier", "nll", "worst_class_drop", "top1_corrupted", "corruption_drop"),
    *("far_at_fp32_threshold", "frr_at_fp32_threshold", "pair_far_at_fp32_threshold", "pair_frr_at_fp32_threshold"),
    *("latency_p50", "latency_p90", "latency_p99", "latency_mean", "throughput", "size", "peak_memory"),
    *("single_stream_p90", "multi_stream_p99", "server_qps", "server_p99", "offline_throughput", "cold_start"),
}


def table(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("| `")}


def target_line(name: str, target: Target) -> str:
    return f"| `{name}` | {target.about} | `{target.backend}` | {', '.join(target.precisions)} |"


def suite_line(name: str, suite: Suite) -> str:
    return f"| `{name}` | {suite.about} | {suite.latency.seconds:g} s | {len(suite.rules)} |"


@pytest.mark.parametrize("name", drawers.names("targets"))
def test_a_target_names_a_back_end_of_the_shelf(name: str) -> None:
    target = drawers.read_target(name)
    assert target.backend in shelves.names(shelves.BACKENDS)
    assert "fp32" in target.precisions


DLA = {"jetson-orin-nano": 0, "jetson-orin-nx": 2, "jetson-agx-orin": 2, "jetson-thor": 0}


@pytest.mark.parametrize("name", drawers.names("targets"))
def test_a_target_tells_the_truth_about_its_device(name: str) -> None:
    target = drawers.read_target(name)
    for specifier in (target.tensorrt, target.python):
        assert specifier is None or len(SpecifierSet(specifier)) > 0
    assert (target.board is None) == (not target.jetpack) == (not name.startswith("jetson-"))
    assert target.dla_cores == DLA.get(name, 0)
    if target.board:
        assert target.sm == ("11.0" if name == "jetson-thor" else "8.7")  # CUDA 13's name; 10.1 under 12.8 and 12.9
        assert target.proved_as == "8.6"
        assert any("SM 8.6" in line for line in drawers.find("targets", name).read_text().splitlines()[:4])
    if target.backend == "tensorrt":
        assert target.tensorrt is not None
        assert not SpecifierSet(target.tensorrt).contains("10.2.0")
        assert SpecifierSet(target.tensorrt).contains("10.3.0" if target.sm != "11.0" else "10.13.3")


@pytest.mark.parametrize("name", drawers.names("suites"))
def test_a_suite_asks_for_what_the_bench_measures(name: str) -> None:
    suite = drawers.read_suite(name)
    assert {rule.metric for rule in suite.rules} <= METRICS
    judges = any(not rule.advice for rule in suite.rules)
    # what ships is judged on the test split, by enough samples for a p99; without rules nothing can ship
    assert not judges or (suite.split == "test" and suite.latency.min_samples >= 662)
    assert judges or "it never ships" in suite.about
    assert all(len(rule.why) > 10 for rule in suite.rules)
    assert {rule.versus for rule in suite.rules} <= {None, "fp32", "teacher", "plain", "baseline"}


def test_quick_has_the_rules_of_default() -> None:
    assert drawers.read_suite("quick").rules == drawers.read_suite("default").rules


@pytest.mark.parametrize("drawer", ["targets", "suites", "studies"])
def test_every_declaration_opens_with_a_comment(drawer: str) -> None:
    for name in drawers.names(drawer):
        assert drawers.find(drawer, name).read_text(encoding="utf-8").startswith("# ")


def test_the_readmes_list_what_is_there() -> None:
    root = Path(drawers.__file__).parent.parent
    if not (root / "pyproject.toml").is_file():
        pytest.skip("the READMEs stay in the checkout")
    targets = {target_line(name, drawers.read_target(name)) for name in drawers.names("targets")}
    suites = {suite_line(name, drawers.read_suite(name)) for name in drawers.names("suites")}
    assert table((root / "export" / "README.md").read_text(encoding="utf-8")) == targets
    assert table((root / "benchmarks" / "README.md").read_text(encoding="utf-8")) == suites
