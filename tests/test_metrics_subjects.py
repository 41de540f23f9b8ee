"""Intervals of listed pairs against other draws of subjects, and the weighted metrics against pairs repeated."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from kd2edge.metrics import (
    Folds,
    PairWeights,
    WeightedRates,
    WeightedTar,
    accepted_at,
    accepted_by_group,
    cosines,
    distances,
    verify_pairs,
)

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def world(seed: int, subjects: int = 150, each: int = 6) -> tuple[Doubles, Bools, Ints]:
    """Squared distances of pairs in turns, genuine and impostor, and their subjects; some subjects are hard to know."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((subjects, 8))
    noise = random.uniform(0.3, 1.2, subjects)
    labels = np.repeat(np.arange(subjects), each)
    embeddings = centres[labels] + noise[labels, None] * random.standard_normal((len(labels), 8))
    place = np.arange(len(labels)).reshape(subjects, each)
    genuine = place.reshape(-1, 2)
    impostor = np.stack([random.permutation(len(labels)), random.permutation(len(labels))], 1)
    impostor = impostor[labels[impostor[:, 0]] != labels[impostor[:, 1]]][: len(genuine)]
    pairs = np.stack([genuine, impostor], 1).reshape(-1, 2)
    return distances(embeddings.astype(np.float32), pairs), np.tile([True, False], len(genuine)), labels[pairs]


def interval(statistic: Callable[[Doubles], float], subjects: Ints) -> tuple[float, float]:
    """The middle 95 % of a statistic of the pairs' weights, over 1,000 draws of the subjects."""
    spread, random = PairWeights(subjects), np.random.default_rng(0)
    draws = random.multinomial(spread.people, np.full(spread.people, 1 / spread.people), 1000)
    low, high = np.quantile([statistic(spread(weights)) for weights in draws], [0.025, 0.975])
    return float(low), float(high)


def test_an_interval_is_no_narrower_than_other_subjects_scatter() -> None:
    """The standard error of accuracy over 100 fresh worlds, against the mean width of the intervals of a few.

    It may be wider by up to the root of 3: that is the weight's variance of an impostor pair whose subjects meet once.
    """
    scatter = np.std([Folds(*world(seed)[:2], 10).accuracies().mean() for seed in range(100)])
    widths = []
    for seed in range(4):
        squared, same, subjects = world(seed)
        folds = Folds(squared, same, 10)
        low, high = interval(lambda weights: float(folds.accuracies(weights).mean()), subjects)  # noqa: B023
        assert low < folds.accuracies().mean() < high
        widths.append(high - low)
    assert 0.85 < np.mean(widths) / (2 * 1.96 * scatter) < 1.75


def test_pairs_that_share_subjects_give_wider_intervals_than_independent_ones() -> None:
    """Each subject's pairs are all right or all wrong: 40 subjects in 400 pairs are worth 40 pairs, not 400."""
    subjects = np.repeat(np.arange(40), 10)[:, None].repeat(2, 1)
    right = np.repeat(np.arange(40) < 30, 10).astype(float)
    low, high = interval(lambda weights: float((weights * right).sum() / weights.sum()), subjects)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 40), rel=0.1)


def test_a_pair_counts_as_often_as_the_product_of_its_subjects() -> None:
    weights = PairWeights(np.array([[7, 7], [5, 7], [9, 9], [9, 5]]))
    assert weights.people == 3
    assert weights(np.array([2, 3, 0])).tolist() == [3, 6, 0, 0]  # of 5, of 7 and of 9


@pytest.mark.parametrize("far", [0.5, 0.1, 0.03])
def test_a_weighted_tar_is_that_of_repeated_pairs(far: float) -> None:
    random = np.random.default_rng(3)
    for _ in range(30):
        scores, same = random.integers(-5, 6, 80) / 5 + 0.2 * (np.arange(80) % 2), np.arange(80) % 2 == 0
        weights = random.integers(0, 4, 80)
        many = np.repeat(np.arange(80), weights)
        expected = verify_pairs(scores[many], same[many], (far,)).tar[far]
        assert WeightedTar(scores, same, far)(weights.astype(float)) == expected


def test_without_pairs_that_weigh_anything_there_is_no_rate() -> None:
    scores, same = np.array([0.9, 0.1]), np.array([True, False])
    assert np.isnan(WeightedTar(scores, same, 0.5)(np.array([0.0, 1.0])))
    assert np.isnan(WeightedRates(0.5, scores, same).frr(np.array([0.0, 1.0])))
    assert np.isnan(WeightedRates(0.5, scores, same).far(np.array([1.0, 0.0])))


def test_weighted_rates_are_those_of_repeated_pairs() -> None:
    random = np.random.default_rng(5)
    scores, same, weights = random.integers(0, 9, 60) / 9, random.random(60) < 0.5, random.integers(0, 4, 60)
    many = np.repeat(np.arange(60), weights)
    found, expected = WeightedRates(5 / 9, scores, same), accepted_at(5 / 9, scores[many], same[many])
    assert found.far(weights.astype(float)) == pytest.approx(expected.far)
    assert found.frr(weights.astype(float)) == pytest.approx(1 - expected.tar)


def test_a_frozen_threshold_by_hand_and_by_group() -> None:
    alike = np.array([0.9, 0.5, 0.5, 0.4, 0.6, 0.2])
    same = np.array([True, True, False, False, False, True])
    whole = accepted_at(0.5, alike, same)
    assert (whole.tar, whole.far, whole.genuine, whole.impostor) == (1 / 3, 1 / 3, 3, 3)  # 0.5 is not above 0.5
    first, second, third = accepted_by_group(0.5, alike, same, np.array([0, 0, 0, 1, 1, 0]), 3)
    assert (first.tar, first.far, first.genuine, first.impostor) == (1 / 3, 0.0, 3, 1)
    assert np.isnan(second.tar)
    assert (second.far, second.genuine, second.impostor) == (0.5, 0, 2)
    assert np.isnan(third.tar)
    assert np.isnan(third.far)


def test_cosines_of_distances() -> None:
    assert cosines(np.array([0.0, 2.0, 4.0])).tolist() == [1.0, 0.0, -1.0]
