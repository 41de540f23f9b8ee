"""Calibration against brute force over bins, scikit-learn, and a classifier whose calibration is known."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss

from kd2edge.errors import UserError
from kd2edge.metrics.calibration import BINS, equal_mass, equal_width, forecasts, reliability, softmax

LOGITS = arrays(
    np.float32,
    st.tuples(st.integers(2, 40), st.integers(2, 6)),
    elements=st.floats(-8, 8, width=32),
)


def plain_softmax(logits: np.ndarray) -> np.ndarray:
    lifted = np.exp(logits.astype(np.float64))
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True))


def by_hand(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """The sum over half-open bins, with a loop and comparisons alone."""
    edges, error = np.linspace(0, 1, bins + 1), 0.0
    for low, high in pairwise(edges):
        held = (confidence > low) & (confidence <= high)
        if held.any():
            error += held.mean() * abs(right[held].mean() - confidence[held].mean())
    return error


@given(LOGITS, st.data())
def test_agrees_with_brute_force(logits: np.ndarray, data: st.DataObject) -> None:
    rows, classes = logits.shape
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
    made, shares = forecasts(logits, labels), plain_softmax(logits)
    right = logits.argmax(axis=1) == labels
    np.testing.assert_allclose(softmax(logits), shares, atol=1e-12)
    np.testing.assert_allclose(made.confidence, shares.max(axis=1), atol=1e-12)
    np.testing.assert_array_equal(made.right, right)
    truth = np.eye(classes)[labels]
    np.testing.assert_allclose(made.brier, ((shares - truth) ** 2).sum(axis=1), atol=1e-12)
    assert made.nll.mean() == pytest.approx(log_loss(labels, shares, labels=range(classes)), abs=1e-9)
    for bins in (1, 4, BINS):
        found = reliability(made, equal_width(made.confidence, bins))
        assert found.error == pytest.approx(by_hand(made.confidence, right, bins), abs=1e-12)
        assert found.n.sum() == rows
        assert found.accuracy @ found.n == pytest.approx(right.sum())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 9))
def test_bins_of_equal_mass(twelfths: list[int], bins: int) -> None:
    """Ascending with confidence, equal ones together, distinct ones evenly spread, in whatever order they come."""
    confidence = np.array(twelfths) / 12
    found = equal_mass(confidence, bins)
    order = np.argsort(confidence, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert all(len(set(found[confidence == value].tolist())) == 1 for value in set(confidence.tolist()))
    apart = equal_mass(np.random.default_rng(len(twelfths)).permutation(len(twelfths)) / 100.0, bins)
    sizes = np.bincount(apart, minlength=bins)
    assert sizes.max() - sizes.min() <= 1
    shuffled = np.random.default_rng(1).permutation(len(confidence))
    np.testing.assert_array_equal(equal_mass(confidence[shuffled], bins), found[shuffled])


def test_an_edge_belongs_to_the_bin_below() -> None:
    assert equal_width(np.array([0.2, 0.2 + 1e-9, 1.0, 1e-9, 0.5]), 5).tolist() == [0, 1, 4, 0, 2]


def test_a_classifier_that_says_what_it_knows() -> None:
    """Labels drawn from its own probabilities: only noise is left; twice too sure, and the error is the known gap."""
    random = np.random.default_rng(0)
    shares = np.column_stack([p := random.uniform(0.5, 1, 20_000), 1 - p])
    labels = (random.uniform(size=len(p)) > p).astype(np.int64)
    honest = forecasts(np.log(shares), labels)
    assert reliability(honest, equal_width(honest.confidence)).error < 0.012
    sure = forecasts(2 * np.log(shares), labels)  # p² / (p² + (1 - p)²)
    gap = np.mean(p**2 / (p**2 + (1 - p) ** 2) - p)
    for bins in (equal_width(sure.confidence), equal_mass(sure.confidence)):
        assert reliability(sure, bins).error == pytest.approx(gap, abs=0.01)


def test_large_logits_stay_finite() -> None:
    made = forecasts(np.array([[3e38, -3e38], [-3e4, 3e4], [0.0, 800.0]], np.float32), np.array([0, 0, 0]))
    assert made.confidence.tolist() == [1, 1, 1]
    assert made.nll[:1].tolist() == [0]
    assert made.nll[1:].tolist() == [6e4, 800]
    assert made.brier.tolist() == [0, 2, 2]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = np.random.default_rng(0).standard_normal((23, 4)), np.arange(23) % 4
    whole = forecasts(logits, labels)
    monkeypatch.setattr("kd2edge.metrics.calibration.ROWS", 5)
    parts = forecasts(logits, labels)
    np.testing.assert_array_equal(whole.confidence, parts.confidence)
    np.testing.assert_array_equal(whole.nll, parts.nll)


def test_faulty_input_is_refused() -> None:
    logits = np.zeros((3, 4), np.float32)
    for labels in (np.array([0, 1]), np.array([0, 1, 4]), np.array([-1, 0, 0])):
        with pytest.raises(UserError, match="do not fit"):
            forecasts(logits, labels)
    with pytest.raises(UserError, match="0 labels"):
        forecasts(logits[:0], np.zeros(0, np.int64))
    for bad in (np.nan, np.inf, -np.inf):
        logits[1, 2] = bad
        with pytest.raises(UserError, match="1 of 3 rows"):
            forecasts(logits, np.array([0, 1, 2]))
