"""Top-k accuracy against sorting, under ties, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import top_k_accuracy_score

from kd2edge.errors import UserError
from kd2edge.metrics import predictions, topk


@given(arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 7)), elements=st.integers(-2, 2)), st.data())
def test_agrees_with_a_stable_sort(logits: np.ndarray, data: st.DataObject) -> None:
    rows, classes = logits.shape
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
    best_first = np.argsort(-logits, axis=1, kind="stable")
    found = topk(logits, labels, ks=range(1, classes + 1))
    for k in range(1, classes + 1):
        assert found[k] == np.mean([label in row[:k] for label, row in zip(labels, best_first, strict=True)])
    assert found[classes] == 1
    assert found[1] == np.mean(predictions(logits) == labels)


def test_agrees_with_scikit_without_ties() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((500, 10)), random.integers(0, 10, 500)
    for k, share in topk(logits, labels, ks=(1, 3, 5)).items():
        assert share == pytest.approx(top_k_accuracy_score(labels, logits, k=k))


def test_equal_logits_earn_chance() -> None:
    logits, labels = np.zeros((20, 10), np.float32), np.arange(20) % 10
    assert topk(logits, labels) == {1: 0.1, 5: 0.5}


def test_predictions_are_the_lowest_of_equal_indices() -> None:
    assert predictions(np.array([[0.0, 2.0, 2.0], [3.0, 3.0, 3.0]])).tolist() == [1, 0]


def test_faulty_input_is_refused() -> None:
    logits, labels = np.zeros((3, 4), np.float32), np.array([0, 1, 2])
    for faulty_labels in (np.array([0, 1, 4]), np.array([-1, 0, 0])):
        with pytest.raises(UserError, match="do not fit"):
            topk(logits, faulty_labels)
    with pytest.raises(UserError, match=r"k in 1\.\.4"):
        topk(logits, labels, ks=(1, 5))
    with pytest.raises(UserError, match="one label per row"):
        topk(logits, labels[:2], ks=(1,))
    with pytest.raises(UserError, match="one label per row"):
        topk(logits[:0], labels[:0], ks=(1,))
    logits[2, 1] = np.nan
    with pytest.raises(UserError, match="row 2"):
        topk(logits, labels, ks=(1,))
    with pytest.raises(UserError, match="row 2"):
        predictions(logits)
