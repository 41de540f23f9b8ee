"""Paired drops against the metrics themselves, and their intervals against formulas and repeated draws."""

import numpy as np
import numpy.typing as npt
import pytest

from kd2edge.errors import UserError
from kd2edge.metrics import topk, verify
from kd2edge.metrics.paired import tar_drop, top1_drop

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def embeddings(noise: float, identities: int = 40, each: int = 6, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    """Embeddings of identities, the same ones disturbed, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(identities), each)
    before = random.standard_normal((identities, 16))[labels] + 0.9 * random.standard_normal((len(labels), 16))
    after = before + noise * random.standard_normal(before.shape)
    return after.astype(np.float32), before.astype(np.float32), labels


def logits(wrong: Ints, count: int = 400) -> Floats:
    """One-hot logits of class i % 5, those at `wrong` of the class after it."""
    classes = np.arange(count) % 5
    classes[wrong] = (classes[wrong] + 1) % 5
    return np.eye(5, dtype=np.float32)[classes]


def test_a_drop_of_top1_is_the_difference_of_two_top1() -> None:
    labels = np.arange(400) % 5
    after, before = logits(np.arange(30)), logits(np.arange(20, 30))
    found = top1_drop(after, before, labels)
    assert found.value == pytest.approx(100 * topk(after, labels, (1,))[1])
    assert found.drop == pytest.approx(100 * 20 / 400)
    # 20 of 400 images lost and none won: a binomial share, whose normal interval is 5 ± 2.14 points
    assert found.low == pytest.approx(5 - 2.14, abs=0.4)
    assert found.high == pytest.approx(5 + 2.14, abs=0.4)


def test_what_changes_nothing_has_no_spread_however_hard_the_images_are() -> None:
    same = logits(np.arange(150))
    found = top1_drop(same, same, np.arange(400) % 5)
    assert (found.drop, found.low, found.high) == (0, 0, 0)
    _, before, labels = embeddings(0)
    found = tar_drop(before, before, labels)
    assert (found.drop, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("far", [1e-3, 1e-2])
def test_a_drop_of_tar_is_the_difference_of_two_tars(noise: float, far: float) -> None:
    after, before, labels = embeddings(noise)
    shuffled = np.random.default_rng(1).permutation(len(labels))
    found = tar_drop(after[shuffled], before[shuffled], labels[shuffled], far)
    worth, was = (verify(given, labels, (far,)).tar[far] for given in (after, before))
    assert found.value == pytest.approx(100 * worth)
    assert found.drop == pytest.approx(100 * (was - worth))
    assert found.low <= found.drop <= found.high
    assert found == tar_drop(after[shuffled], before[shuffled], labels[shuffled], far)


def test_the_interval_of_a_tar_is_as_wide_as_other_identities_scatter() -> None:
    drops = [tar_drop(*embeddings(0.5, seed=seed), far=1e-2).drop for seed in range(60)]
    widths = [found.high - found.low for found in (tar_drop(*embeddings(0.5, seed=s), far=1e-2) for s in range(5))]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(drops), rel=0.35)


def test_too_few_pairs_for_a_far_are_refused() -> None:
    after, before, labels = embeddings(0.1, identities=4, each=3)
    with pytest.raises(UserError, match=r"0\.001 cannot be told from 54 impostor and 12 genuine pairs"):
        tar_drop(after, before, labels)
