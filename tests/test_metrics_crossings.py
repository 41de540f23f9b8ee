"""Pairs that two models decide otherwise, against a loop over all pairs."""

import numpy as np
import pytest

from kd2edge.errors import UserError
from kd2edge.metrics import crossings as module
from kd2edge.metrics.crossings import Crossing, crossings, listed_crossings


def by_hand(after: np.ndarray, before: np.ndarray, labels: np.ndarray, threshold: float) -> list[Crossing]:
    found = []
    for one in range(len(labels)):
        for other in range(one + 1, len(labels)):
            cosines = []
            for given in (before, after):
                lengths = np.linalg.norm(given[one]) * np.linalg.norm(given[other])
                cosines.append(float(given[one] @ given[other] / lengths))
            same = bool(labels[one] == labels[other])
            if (cosines[0] > threshold) == same and (cosines[1] > threshold) != same:
                found.append(Crossing(one, other, same, *cosines))
    return sorted(found, key=lambda pair: -abs(pair.before - pair.after))


def nets(seed: int, n: int = 37) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    before = random.standard_normal((n, 5)).astype(np.float32)
    noise = random.standard_normal((n, 5)).astype(np.float32)
    return before + 0.6 * noise, before, random.integers(0, 6, n)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 8)
    after, before, labels = nets(seed)
    threshold = 0.2
    expected = by_hand(after, before, labels, threshold)
    assert {True, False} == {pair.same for pair in expected}
    for most in (3, 1000):
        found = crossings(after, before, labels, threshold, most)
        assert [(p.one, p.other, p.same) for p in found] == [(p.one, p.other, p.same) for p in expected[:most]]
        np.testing.assert_allclose([p.after for p in found], [p.after for p in expected[:most]], atol=1e-6)
        assert all(pair.moved > 0 for pair in found)


def test_listed_pairs() -> None:
    after, before, labels = nets(9)
    pairs = np.random.default_rng(0).integers(0, len(labels), (200, 2))
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    listed = {(one, other) for one, other in pairs.tolist()}
    expected = [pair for pair in by_hand(after, before, labels, 0.1) if (pair.one, pair.other) in listed]
    found = listed_crossings(after, before, pairs, same, 0.1, 5)
    assert [(p.one, p.other, p.same) for p in found] == [(p.one, p.other, p.same) for p in expected[:5]]


def test_a_model_against_itself_has_none() -> None:
    _, before, labels = nets(1)
    assert crossings(before, before, labels, 0.2, 12) == []


def test_a_dead_embedding_is_refused() -> None:
    after, before, labels = nets(1)
    after[3] = 0
    with pytest.raises(UserError, match="row 3"):
        crossings(after, before, labels, 0.2, 12)
