"""Fold by fold against insightface's protocol, written down from its description with scikit-learn and SciPy.

The protocol (verification.py): images 2 i and 2 i + 1 are pair i; squared distances of unit embeddings; KFold without
shuffling; thresholds 0, 0.01, ... 3.99, the first best on nine folds judges the tenth; VAL at a FAR of 1e-3 takes the
threshold from a linear spline of the FARs at 0, 0.001, ... 3.999, or 0 where they stay below.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from kd2edge.errors import UserError
from kd2edge.metrics import Folds, Mode, cosines, distances, verify_pairs

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
RANDOM_CASES = 1000


def by_protocol(squared: Doubles, same: Bools, folds: int, far: float) -> tuple[Doubles, Doubles, Doubles]:
    """Accuracy, VAL and FAR of each fold."""
    found = []
    for train, test in KFold(folds, shuffle=False).split(squared):
        grid = np.arange(0, 4, 0.01)
        decided = squared[train][:, None] < grid
        best = grid[int(np.argmax(np.mean(decided == same[train][:, None], axis=0)))]
        at = np.arange(0, 4, 0.001)
        impostors = np.sort(squared[train][~same[train]])
        rates = np.searchsorted(impostors, at, side="left") / len(impostors)
        # SciPy's interp1d(rates, at, kind="slinear") as it was before it refused equal abscissae
        spline = BSpline.construct_fast(np.r_[rates[0], rates, rates[-1]], at.copy(), 1)
        threshold = float(spline(far)) if rates.max() >= far else 0.0
        accepted, right = squared[test] < threshold, same[test]
        found.append((np.mean((squared[test] < best) == right), accepted[right].mean(), accepted[~right].mean()))
    accuracy, val, rate = np.array(found).T
    return accuracy, val, rate


def alternating(pairs: int) -> Bools:
    """Both kinds in every two consecutive pairs."""
    return np.asarray(np.arange(pairs) % 2 == 0)


def random_case(seed: int) -> tuple[Doubles, Bools, int, float]:
    random = np.random.default_rng(seed)
    folds = int(random.integers(2, 11))
    same = alternating(int(random.integers(4 * folds, 6 * folds)))
    centre = np.where(same, random.uniform(0.2, 1.5), random.uniform(0.8, 2))
    squared = np.clip(centre + random.uniform(0.1, 0.6) * random.standard_normal(len(same)), 0, 3.9)
    if seed % 4 == 0:
        squared = np.round(squared, 2)  # many ties, on the points of the grid themselves
    return squared, same, folds, float(random.choice([1e-3, 0.05, 0.1, 0.5]))


def test_insightface_mode_follows_the_protocol_in_a_thousand_random_cases() -> None:
    for seed in range(RANDOM_CASES):
        squared, same, folds, far = random_case(seed)
        made = Folds(squared, same, folds, "insightface")
        accuracy, val, rate = by_protocol(squared, same, folds, far)
        assert made.accuracies() == pytest.approx(accuracy, abs=1e-6), seed
        assert made.val(far).val == pytest.approx(val, abs=1e-6), seed
        assert made.val(far).far == pytest.approx(rate, abs=1e-6), seed


def fixture(genuine: list[float], impostor: list[float]) -> tuple[Doubles, Bools]:
    """Pairs in turns, genuine and impostor."""
    return np.array([genuine, impostor]).T.ravel(), np.tile([True, False], len(genuine))


def test_insightface_mode_by_hand() -> None:
    """Two folds of two pairs. On fold 2 the first best threshold is 0.51 (right of 0.50), on fold 1 it is 0.31."""
    made = Folds(*fixture([0.3, 0.5], [0.7, 0.9]), 2, "insightface")
    # fold 1 by 0.51: both right. Fold 2 by 0.31: its genuine pair of 0.5 is rejected
    assert made.accuracies().tolist() == [1.0, 0.5]
    # The FAR of fold 2's one impostor jumps from 0 (at 0.9) to 1 (at 0.901): 1e-3 lies at 0.900001
    val = made.val(1e-3)
    assert (val.val.tolist(), val.far.tolist()) == ([1.0, 1.0], [1.0, 0.0])


def test_a_distance_on_a_point_of_the_grid_is_not_below_it() -> None:
    """Identical images are rejected at 0 and accepted at 0.01; orthogonal embeddings, at 2, are rejected at 2."""
    embeddings = np.array([[3, 0], [5, 0], [0, 7]], np.float32)
    squared = distances(embeddings, np.array([[0, 1], [0, 2], [0, 1], [0, 2]]))
    assert squared.tolist() == [0.0, 2.0, 0.0, 2.0]
    assert cosines(squared).tolist() == [1.0, 0.0, 1.0, 0.0]
    made = Folds(squared, alternating(4), 2, "insightface")
    assert made.grid[made.squared.astype(int) * 100].tolist() == squared.tolist()
    assert made.accuracies().tolist() == [1.0, 1.0]


def test_exact_mode_by_hand() -> None:
    """Fold 2 is judged by the first threshold of fold 1 above its genuine 0.3, its impostor's 0.7, and 0.5 passes."""
    made = Folds(*fixture([0.3, 0.5], [0.7, 0.9]), 2)
    assert made.accuracies().tolist() == [0.5, 1.0]  # 0.9, the threshold of fold 2, lets fold 1's impostor in


def best_elsewhere(squared: list[float], same: list[bool], folds: int) -> list[float]:
    """Exact mode by trying every observed distance, and one beyond all, on the other folds."""
    found = []
    for test in np.array_split(np.arange(len(squared)), folds):
        train = [i for i in range(len(squared)) if i not in test]
        best, most = 0.0, -1
        for threshold in [*sorted({squared[i] for i in train}), float("inf")]:
            right = sum((squared[i] < threshold) == same[i] for i in train)
            if right > most:
                best, most = threshold, right
        found.append(sum((squared[i] < best) == same[i] for i in test) / len(test))
    return found


LISTS = st.integers(2, 5).flatmap(
    lambda folds: st.tuples(
        st.just(folds), st.lists(st.integers(0, 8).map(lambda d: d / 2), min_size=2 * folds, max_size=4 * folds)
    )
)


@given(LISTS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_exact_mode_is_the_best_of_all_observed_thresholds(case: tuple[int, list[float]], random: object) -> None:
    """With ties in abundance; a fold has both kinds, or it is refused."""
    folds, squared = case
    same = [bool(random.getrandbits(1)) for _ in squared]  # type: ignore[attr-defined]
    parts = [[same[i] for i in part] for part in np.array_split(np.arange(len(same)), folds)]
    if any(len(set(part)) < 2 for part in parts):
        with pytest.raises(UserError, match=r"Fold \d of \d needs pairs of both kinds"):
            Folds(np.array(squared), np.array(same), folds)
    else:
        assert Folds(np.array(squared), np.array(same), folds).accuracies().tolist() == best_elsewhere(
            squared, same, folds
        )


def tar_by_trying(scores: Doubles, same: Bools, k: int) -> float:
    """The most genuine pairs above any threshold that fewer than k impostors exceed."""
    shares = [
        float(np.mean(scores[same] > t)) for t in np.unique(scores[~same]) if np.count_nonzero(scores[~same] > t) < k
    ]
    return max(shares)


PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=40)


@given(PAIRS, st.sampled_from([0.5, 0.1, 0.05]))
@settings(max_examples=150, deadline=None)
def test_the_tar_of_a_list_is_the_most_within_the_far(pairs: list[tuple[int, bool]], far: float) -> None:
    scores = np.array([score / 4 for score, _ in pairs])
    same = np.array([kind for _, kind in pairs])
    if len(set(same.tolist())) < 2:  # all genuine, all impostors, one pair
        with pytest.raises(UserError, match="needs pairs of both kinds"):
            verify_pairs(scores, same, (far,))
        return
    found = verify_pairs(scores, same, (far,))
    k = len(scores[~same]) * round(100 * far) // 100
    if k:
        assert found.tar[far] == tar_by_trying(scores, same, k)
        assert np.mean(scores[~same] > found.threshold[far]) <= far
    else:
        assert np.isnan(found.tar[far])


@pytest.mark.parametrize("mode", ["exact", "insightface"])
def test_what_cannot_be_judged_in_folds_is_refused_in_a_sentence(mode: Mode) -> None:
    squared, same = fixture([0.1] * 10, [1.1] * 10)
    with pytest.raises(UserError, match="2 of 20 pair distances are not finite"):
        Folds(np.where(np.arange(20) < 2, np.nan, squared), same, 10, mode)
    with pytest.raises(UserError, match="1 pairs cannot be judged in 10 folds"):
        Folds(squared[:1], same[:1], 10, mode)
    sentence = r"Fold 1 of 10 needs pairs of both kinds; it has 2 genuine and 0 impostor pairs"
    with pytest.raises(UserError, match=sentence):
        Folds(squared, np.sort(same)[::-1].copy(), 10, mode)
    with pytest.raises(UserError, match=r"Fold 1 of 10 .* 0 genuine and 2 impostor"):
        Folds(squared, np.zeros(20, np.bool_), 10, mode)


def test_weights_count_pairs_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    squared, same, fold = random.integers(0, 9, 24) / 4, alternating(24), np.repeat([0, 1, 2], 8)
    weights = random.integers(0, 4, 24)
    many = np.repeat(np.arange(24), weights)
    modes: tuple[Mode, ...] = ("exact", "insightface")
    for mode in modes:
        made = Folds(squared, same, 3, mode).accuracies(weights.astype(float))
        grid = np.arange(0, 4, 0.01) if mode == "insightface" else np.append(np.unique(squared), np.inf)
        right = (squared[many][:, None] < grid) == same[many][:, None]
        best = [int(np.argmax(right[fold[many] != f].sum(0))) for f in range(3)]
        expected = [right[fold[many] == f][:, best[f]].mean() for f in range(3)]
        assert made == pytest.approx(expected, abs=1e-12)


SCORES = Path(__file__).parent / "data" / "lfw_dev_test_distances.npz"


def test_insightface_mode_on_the_pairs_of_lfw() -> None:
    """Squared distances of LFW's 1,000 DevTest pairs by FaceX-Zoo's MobileFaceNet, mirrored images added."""
    with np.load(SCORES) as file:
        squared, same = file["squared"], file["same"]
    accuracy, val, rate = by_protocol(squared, same, 10, 1e-3)
    made = Folds(squared, same, 10, "insightface")
    assert made.accuracies() == pytest.approx(accuracy, abs=1e-6)
    assert made.val().val == pytest.approx(val, abs=1e-6)
    assert made.val().far == pytest.approx(rate, abs=1e-6)
    assert accuracy.mean() == pytest.approx(0.99, abs=0.01)


def test_distances_are_those_of_scikit_learns_unit_vectors() -> None:
    random = np.random.default_rng(0)
    embeddings = (random.standard_normal((50, 512)) * 7).astype(np.float32)
    pairs = random.integers(0, 50, (5000, 2))
    unit = normalize(embeddings.astype(np.float64))
    expected = np.sum(np.square(unit[pairs[:, 0]] - unit[pairs[:, 1]]), 1)
    np.testing.assert_allclose(distances(embeddings, pairs), expected, rtol=0, atol=1e-14)
    with pytest.raises(UserError, match="1 of 50 embeddings are NaN, infinite or zero, the first at row 3"):
        distances(np.where(np.arange(50)[:, None] == 3, 0, embeddings).astype(np.float32), pairs)
