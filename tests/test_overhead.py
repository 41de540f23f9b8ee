"""The script that holds the bench's loop against onnxruntime's own: what it writes, in sizes that prove no speed."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import overhead
from tests.test_edge_bench import Patterns, classifier, linear


def test_what_the_comparison_with_the_bare_loop_writes(tmp_path: Path) -> None:
    for place, image in enumerate(Patterns().images):
        path = tmp_path / "images" / "test" / f"class{place % 2}" / f"{place:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    data = {"name": "imagefolder", "path": str(tmp_path / "images"), "size": 8, "color": "L"}
    model = linear(tmp_path / "net.onnx", classifier(), data=data)
    given = argparse.Namespace(model=model.path, turns=7, repeats=2, seconds=0.02, warmup_ms=1.0)
    made = json.loads(json.dumps(overhead.report(given)))
    assert str(tmp_path) not in json.dumps(made)
    assert made["model"]["sha256"] == model.manifest.sha256
    assert made["conditions"]["batch"] == made["conditions"]["threads"] == 1
    assert made["versions"]["onnxruntime"]
    assert made["device"]["cores"] >= 1
    for part, turns in (("one_process", 7), ("fresh_processes", 2)):
        found = made[part]
        assert found["turns"] == turns
        for side in ("kd2edge", "bare"):
            assert found["calls"][side] >= turns
            assert len(found["p50_ms_by_turn"][side]) == turns
            assert min(found["p50_ms_by_turn"][side]) <= found["p50_ms"][side] <= max(found["p50_ms_by_turn"][side])
            assert found["calls_a_second_by_wall"][side] > 0
        value, low, high = found["p50_ratio"]
        assert value > 0
        assert (low is None) == (turns == 2)  # of two turns nothing can be said
        assert low is None or low <= high
    assert "throughput_ratio_by_processor" in made["one_process"]
    assert set(map(type, made["met"].values())) == {bool}
    assert made["met"]["p50_surely_within_2_percent"] is False


def test_the_ratio_of_throughputs_is_that_of_calls_by_time() -> None:
    ours = [overhead.Turn(np.full(50, 10), 1000, 1000)] * 8
    theirs = [overhead.Turn(np.full(100, 10), 1000, 2000)] * 8
    found = overhead.compared(ours, theirs)
    assert found["throughput_ratio_by_wall"] == [0.5, 0.5, 0.5]
    assert found["throughput_ratio_by_processor"] == [1.0, 1.0, 1.0]
    assert found["calls_a_second_by_wall"] == {"kd2edge": 5e7, "bare": 1e8}
    assert found["p50_ratio"] == [1.0, 1.0, 1.0]


@pytest.mark.skipif(not overhead.RESULT.is_file(), reason="not measured yet")
def test_what_is_committed_was_measured_by_this_script() -> None:
    kept = json.loads(overhead.RESULT.read_text())
    assert kept["command"].startswith("python benchmarks/overhead.py ")
    assert min(kept["one_process"]["turns"], kept["fresh_processes"]["turns"]) >= 5
    assert kept["met"]["added_at_most_1_percent"]
    assert kept["met"]["p50_surely_within_2_percent"]
