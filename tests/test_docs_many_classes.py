"""The page on many classes tells what was measured, its formula is near it, and its recipe is valid."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd2edge.schema import Head

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "many-classes.md").read_text(encoding="utf-8")
REPORT = json.loads((ROOT / "benchmarks" / "results" / "classes.json").read_bytes())
ROWS: list[dict[str, Any]] = REPORT["rows"]


def of(share: float) -> dict[int, dict[str, Any]]:
    return {row["threads"]: row for row in ROWS if row["share"] == share}


def line(share: float) -> str:
    one, two = of(share)[1], of(share)[2]
    times = [f"{row[kind]:.2f} s" for row in (one, two) for kind in ("cpu_seconds_median", "seconds_median")]
    memory = [f"{max(one[kind], two[kind]) / 1000:.2f} GB" for kind in ("peak_mb", "predicted_mb")]
    return f"| {share:g} | {one['classes_per_step']:,} | {' | '.join(times + memory)} |"


def test_the_table_is_the_results() -> None:
    shares = sorted({row["share"] for row in ROWS}, reverse=True)
    assert shares == [1.0, 0.3, 0.1, 0.03, 0.01]
    assert [row for row in PAGE.splitlines() if re.match(r"\| [\d.]+ \|", row)] == [line(share) for share in shares]


def test_a_step_at_360_thousand_classes_fits_in_six_gigabytes_and_the_formula_says_so() -> None:
    assert REPORT["setting"] == {"classes": 360_232, "width": 512, "batch": 64, "steps": 3}
    for row in ROWS:
        assert row["peak_mb"] < 6000
        assert row["peak_mb"] == pytest.approx(row["predicted_mb"], rel=0.12)
        drawn = row["classes_per_step"]
        numbers = 3 * 360_232 * 512 + 2 * drawn * 512 + 6 * 64 * drawn
        assert row["predicted_mb"] - row["process_mb"] == pytest.approx(4 * numbers / 1e6, rel=1e-3)


def test_the_recipe_lines_are_valid() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    heads = [Head.model_validate(yaml.safe_load(block)["student"]["head"]) for block in blocks]
    assert [(head.sample, head.sharded) for head in heads] == [(0.1, False), (0.1, True)]
