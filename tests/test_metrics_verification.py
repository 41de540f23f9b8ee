"""Verification against scikit-learn's ROC and against counting by hand, with as many ties as can be made."""

import tracemalloc
from fractions import Fraction
from math import isnan

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from kd2edge.errors import UserError
from kd2edge.metrics import Verification, rates_at, verify, verify_pairs
from kd2edge.metrics._pairs import ROWS, AllPairs

FARS = (1.0, 0.5, 0.29, 0.1, 1e-2, 1e-3)


def by_scikit(scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_]) -> tuple[float, dict[float, float]]:
    """EER and TARs from the points of a ROC curve, in whole numbers of pairs."""
    genuine, impostor = int(same.sum()), int((~same).sum())
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    accepted, found = np.rint(fpr * impostor).astype(int), np.rint(tpr * genuine).astype(int)
    gap = np.abs(accepted * genuine - (genuine - found) * impostor)
    best = int(np.argmin(gap))  # thresholds descend along the curve
    eer = (accepted[best] / impostor + 1 - found[best] / genuine) / 2
    tar = {}
    for far in FARS:
        rank = int(Fraction(str(far)) * impostor)
        tar[far] = found[accepted < rank].max() / genuine if rank else float("nan")
    return eer, tar


def all_pairs(
    vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Cosines of all pairs in float64, and whether each is genuine."""
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    i, j = np.triu_indices(len(labels), k=1)
    return (exact @ exact.T)[i, j], labels[i] == labels[j]


def signs(seed: int, n: int, people: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Vectors of 16 signs: cosines are multiples of 1/8, exact in every precision and tied in large groups."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, people, n)
    vectors = np.sign(random.standard_normal((people, 16))[labels] + random.standard_normal((n, 16)))
    return vectors.astype(np.float32), labels


def assert_same(found: Verification, scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_]) -> None:
    eer, tar = by_scikit(scores, same)
    assert (found.genuine, found.impostor) == (same.sum(), (~same).sum())
    assert found.eer == pytest.approx(eer, abs=1e-12)
    assert found.tar == pytest.approx(tar, abs=1e-12, nan_ok=True)
    for far, threshold in found.threshold.items():
        assert isnan(threshold) == isnan(tar[far])
        if not isnan(threshold):
            assert np.mean(scores[~same] > threshold) < far
            assert np.mean(scores[~same] >= threshold) >= Fraction(str(far)) - Fraction(1, found.impostor)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
def test_pairs_agree_with_scikit_under_ties(pairs: list[tuple[int, bool]]) -> None:
    scores, same = np.array([s for s, _ in pairs], np.float64) / 4, np.array([g for _, g in pairs])
    assume(same.any() and not same.all())
    assert_same(verify_pairs(scores, same, FARS), scores, same)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 12))
def test_embeddings_agree_with_scikit_under_ties(seed: int, n: int, people: int) -> None:
    vectors, labels = signs(seed, n, people)
    scores, same = all_pairs(vectors, labels)
    assume(same.any() and not same.all())
    assert_same(verify(vectors, labels, FARS), scores, same)


@pytest.mark.parametrize("people", [2, 40, 400])
def test_several_blocks_agree_with_scikit(people: int) -> None:
    vectors, labels = signs(people, 2 * ROWS + 77, people)
    assert_same(verify(vectors, labels, FARS), *all_pairs(vectors, labels))


@pytest.mark.parametrize("spread", [1.0, 1e-4], ids=["usual", "collapsed"])
def test_two_passes_find_exactly_what_holding_every_score_finds(spread: float) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 90, 900)
    centres = random.standard_normal((90, 24))
    vectors = (np.ones(24) + spread * (centres[labels] + random.standard_normal((900, 24)))).astype(np.float32)
    genuine, impostor = (np.concatenate(kind) for kind in zip(*AllPairs(vectors, labels), strict=True))
    same = np.arange(len(genuine) + len(impostor)) < len(genuine)
    assert verify(vectors, labels, FARS) == verify_pairs(np.concatenate([genuine, impostor]), same, FARS)


def test_every_pair_comes_once() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.standard_normal((ROWS + 50, 8)).astype(np.float32), random.integers(0, 7, ROWS + 50)
    scores, same = all_pairs(vectors, labels)
    genuine, impostor = (np.sort(np.concatenate(kind)) for kind in zip(*AllPairs(vectors, labels), strict=True))
    np.testing.assert_allclose(genuine, np.sort(scores[same]), atol=1e-6)
    np.testing.assert_allclose(impostor, np.sort(scores[~same]), atol=1e-6)


def test_worked_by_hand() -> None:
    impostor, genuine = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [0.35, 0.55, 0.92, 0.96]
    found = verify_pairs(np.array(impostor + genuine), np.arange(14) >= 10, fars=(0.1, 0.3, 0.05))
    assert found.threshold[0.1] == 0.95
    assert found.tar[0.1] == 0.25
    assert found.threshold[0.3] == 0.8
    assert found.tar[0.3] == 0.5
    assert isnan(found.tar[0.05])
    assert isnan(found.threshold[0.05])
    assert found.eer == 0.5, "above 0.55: five impostors of ten accepted, two genuine of four rejected"


def test_perfect_and_reversed() -> None:
    same = np.array([True, True, False, False])
    assert verify_pairs(np.array([0.9, 0.8, 0.2, 0.1]), same, fars=(0.5,)).eer == 0
    assert verify_pairs(np.array([0.9, 0.8, 0.2, 0.1]), same, fars=(0.5,)).tar == {0.5: 1.0}
    assert verify_pairs(np.array([0.1, 0.2, 0.8, 0.9]), same, fars=(0.5,)).eer == 1


def test_identical_embeddings_earn_nothing() -> None:
    found = verify(np.ones((40, 8), np.float32), np.arange(40) // 2, fars=(0.1,))
    assert found.tar == {0.1: 0.0}
    assert found.eer == 0.5


def test_a_whole_benchmark_fits_in_bounded_memory() -> None:
    """13,180 embeddings have 86.9 million pairs: 347 MB of scores, were they held."""
    vectors = np.random.default_rng(0).standard_normal((13_180, 32)).astype(np.float32)
    tracemalloc.start()
    found = verify(vectors, np.arange(13_180) // 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.genuine, found.impostor) == (125_210, 86_724_400)
    assert found.eer == pytest.approx(0.5, abs=0.01)
    assert peak < 150e6


def test_order_and_length_do_not_matter() -> None:
    vectors, labels = signs(5, 300, 30)
    shuffled = np.random.default_rng(0).permutation(300)
    scale = np.float32(2) ** (np.arange(300, dtype=np.float32)[:, None] % 7)
    assert verify(vectors, labels, FARS) == verify(vectors[shuffled] * scale, labels[shuffled], FARS)


def test_frozen_threshold() -> None:
    vectors, labels = signs(6, 400, 40)
    scores, same = all_pairs(vectors, labels)
    for threshold in (-1.0, 0.25, 0.3, 1.0):
        rates = rates_at(threshold, vectors, labels)
        assert rates.far == pytest.approx(np.mean(scores[~same] > threshold))
        assert rates.tar == pytest.approx(np.mean(scores[same] > threshold))


def test_threshold_found_realises_its_tar() -> None:
    random = np.random.default_rng(8)
    vectors, labels = random.standard_normal((700, 32)).astype(np.float32), random.integers(0, 50, 700)
    found = verify(vectors, labels, fars=(1e-2,))
    rates = rates_at(found.threshold[1e-2], vectors, labels)
    assert rates.tar == found.tar[1e-2]
    assert rates.far == (int(Fraction("0.01") * found.impostor) - 1) / found.impostor


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_faulty_embeddings_are_refused(value: float) -> None:
    vectors, labels = signs(0, 20, 4)
    vectors[7] = value
    with pytest.raises(UserError, match="row 7"):
        verify(vectors, labels)


def test_faulty_requests_are_refused() -> None:
    vectors, labels = signs(0, 20, 4)
    with pytest.raises(UserError, match="0 impostor"):
        verify(vectors, np.zeros(20, np.int64))
    with pytest.raises(UserError, match="0 genuine"):
        verify(vectors, np.arange(20))
    with pytest.raises(UserError, match="FAR"):
        verify(vectors, labels, fars=(0.0,))
    with pytest.raises(UserError, match=r"\[N, D\]"):
        verify(vectors, labels[:-1])
    with pytest.raises(UserError, match="threshold is NaN"):
        rates_at(float("nan"), vectors, labels)
    with pytest.raises(UserError, match="not finite"):
        verify_pairs(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(UserError, match="0 genuine"):
        verify_pairs(np.array([0.1, 0.2]), np.array([False, False]))
