"""1:N against a loop over probes that follows the words of the definition."""

from math import isnan, nan

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd2edge.errors import UserError
from kd2edge.metrics import Identification, identify
from kd2edge.metrics import identification as module

Vectors = npt.NDArray[np.float32]
Subjects = npt.NDArray[np.int64]
FPIRS = (0.01, 0.1, 0.29, 1.0)


def signs(seed: int, people: int, gallery: int, probes: int) -> tuple[Vectors, Subjects, Vectors, Subjects]:
    """Vectors of 4 halves with a sign: their cosines are multiples of a half, exact, and tied in large groups."""
    random = np.random.default_rng(seed)
    first, second = (random.choice([-0.5, 0.5], (count, 4)).astype(np.float32) for count in (gallery, probes))
    return first, random.integers(0, people, gallery), second, random.integers(0, people, probes)


def by_loop(gallery: Vectors, enrolled: Subjects, probes: Vectors, subjects: Subjects) -> Identification:
    mates, ranks, strangers = [], [], []
    for probe, subject in zip(probes, subjects, strict=True):
        scores = [float(np.dot(probe.astype(float), one.astype(float))) for one in gallery]
        own = [score for score, other in zip(scores, enrolled, strict=True) if other == subject]
        if not own:
            strangers.append(max(scores))
            continue
        mates.append(max(own))
        rivals = [score for score, other in zip(scores, enrolled, strict=True) if other != subject]
        ranks.append(1 + sum(score >= max(own) for score in rivals))
    tpir, thresholds = {}, {}
    for fpir in FPIRS:
        allowed = round(fpir * 100) * len(strangers) // 100
        threshold = sorted(strangers, reverse=True)[allowed - 1] if allowed else nan
        thresholds[fpir] = threshold
        tpir[fpir] = sum(score > threshold for score in mates) / len(mates) if allowed else nan
    rank = {k: sum(r <= k for r in ranks) / len(ranks) for k in (1, 5, 10)}
    return Identification(rank, tpir, thresholds, len(mates), len(strangers))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 14), st.integers(1, 30), st.sampled_from([4, 512]))
def test_it_is_what_the_words_say_under_ties(seed: int, people: int, gallery: int, probes: int, block: int) -> None:
    lists = signs(seed, people, gallery, probes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PROBES", block)
        if not np.isin(lists[3], lists[1]).any():
            with pytest.raises(UserError, match="No probe"):
                identify(*lists, fpirs=FPIRS)
            return
        found, expected = identify(*lists, fpirs=FPIRS), by_loop(*lists)
    assert (found.mated, found.unmated) == (expected.mated, expected.unmated)
    for ours, theirs in (
        (found.rank, expected.rank),
        (found.tpir, expected.tpir),
        (found.threshold, expected.threshold),
    ):
        assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)


def test_worked_by_hand() -> None:
    gallery, enrolled = np.eye(3, 4, dtype=np.float32), np.array([7, 8, 9])
    probes = np.array([[0.9, 0.1, 0, 0.4], [0.6, 0.5, 0, 0.6], [0.2, 0.3, 0.4, 0.8], [0, 0.7, 0.1, 0.7]], np.float32)
    found = identify(gallery, enrolled, probes, np.array([7, 8, 5, 6]), fpirs=(0.1, 0.5, 1.0))
    assert found.rank == {1: 0.5, 5: 1.0, 10: 1.0}
    assert isnan(found.tpir[0.1]), "a tenth of two strangers is none"
    assert (found.tpir[0.5], found.tpir[1.0]) == (0.5, 1.0), "strangers find 0.7 and 0.4, mates 0.9 and 0.5"
    assert found.threshold[0.5] == pytest.approx(0.7)


def test_equal_embeddings_find_nobody() -> None:
    same = np.full((6, 4), 0.5, np.float32)
    found = identify(same, np.arange(6), same, np.array([0, 1, 2, 7, 8, 9]), fpirs=(1.0,))
    assert found.rank == {1: 0.0, 5: 0.0, 10: 1.0}
    assert found.tpir == {1.0: 0.0}


def test_the_mean_is_over_galleries() -> None:
    one, two = (Identification({1: r}, {0.1: r / 2}, {0.1: 0.25}, 3, 4) for r in (0.5, 1.0))
    assert module.average([one, two]) == Identification({1: 0.75}, {0.1: 0.375}, {0.1: 0.25}, 6, 8)
    assert module.average([]) is None
