"""The measurement of the training loop's cost: it compares what trains the same bits, and tells no more than that."""

import argparse
import json

import numpy as np
import pytest
import scipy.stats

from benchmarks import loop

pytestmark = pytest.mark.kd


def test_a_report_compares_loops_that_end_in_the_same_bits() -> None:
    given = argparse.Namespace(turns=2, steps=4, threads=1, subjects=["omniglot", "cifar"])
    made = json.loads(json.dumps(loop.report(given)))
    assert set(made["rows"]) == {"omniglot", "cifar"}
    for row in made["rows"].values():
        for clock in ("wall", "processor"):
            assert all(len(turns) == 2 for turns in row[f"{clock}_ms_by_turn"].values())
            ours, bare = (np.array(row[f"{clock}_ms_by_turn"][side]) for side in ("kd2edge", "bare"))
            assert row[f"{clock}_ratio"][0] == pytest.approx(scipy.stats.gmean(ours / bare), rel=1e-3)
    worst = max(row["wall_ratio"][0] for row in made["rows"].values())
    assert made["met"]["added_at_most_2_percent"] == (worst <= 1.02)


def test_a_bare_loop_that_trains_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loop.bare

    def wrong(subject: loop.Subject) -> tuple[loop.Nanoseconds, object]:
        steps, student = plain(subject)
        next(student.parameters()).data[0] += 1e-3
        return steps, student

    monkeypatch.setattr(loop, "bare", wrong)
    with pytest.raises(SystemExit, match="do not train the same net"):
        loop.in_turns(loop.cifar(2), 1)


def test_the_ratio_is_that_of_turns_side_by_side_and_surely_so_where_they_agree() -> None:
    speeds = [1, 1, 2, 1, 2, 2, 1, 2]
    ours = [np.full((50, 2), 1_030_000 * speed) for speed in speeds]
    bare = [np.full((50, 2), 1_000_000 * speed) for speed in speeds]
    row = loop.compared({"kd2edge": ours, "bare": bare})
    assert row["wall_ratio"] == [1.03, 1.03, 1.03]
    assert row["wall_ms"] == {"kd2edge": 1.545, "bare": 1.5}
