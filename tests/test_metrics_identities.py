"""All pairs weighed by identities against pairs repeated one by one, whatever the blocks that they come in."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd2edge.errors import UserError
from kd2edge.metrics import IdentityRates, IdentityTar, pair_counts, rates_at, verify, verify_pairs
from kd2edge.metrics import _pairs as pairs_module
from kd2edge.metrics import identities as module
from kd2edge.metrics._cosine import unit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
FARS = (0.3, 0.1, 0.02)


def world(seed: int, identities: int = 14, images: int = 60, ties: bool = False) -> tuple[Floats, Ints]:
    """Embeddings in no order, of identities of unlike numbers of images.

    Those with ties have but a few cosines, which float32 holds exactly whatever they are summed by.
    """
    random = np.random.default_rng(seed)
    labels = 3 * random.integers(0, identities, images)
    near = random.standard_normal((3 * identities, 16))[labels] + random.standard_normal((images, 16))
    return (np.where(near > 0, 1, -1) if ties else near).astype(np.float32), labels


def repeated(embeddings: Floats, labels: Ints, weights: Ints) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Scores of all pairs of a draw, each as often as it counts, and whether each is genuine."""
    identity = np.unique(labels, return_inverse=True)[1]
    order = np.argsort(labels, kind="stable")  # so that the cosines are the same to the last bit
    normed, identity = unit(embeddings, labels)[order], identity[order]
    one, other = np.triu_indices(len(labels), 1)
    same = identity[one] == identity[other]
    times = np.where(same, weights[identity[one]], weights[identity[one]] * weights[identity[other]])
    return np.repeat((normed @ normed.T)[one, other], times), np.repeat(same, times)


def drawn(identities: int, seed: int, count: int = 5) -> Ints:
    return np.random.default_rng(seed).multinomial(identities, np.full(identities, 1 / identities), count)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([3, 256]), st.sampled_from([5, 900]))
def test_a_draw_is_all_its_pairs_counted_out(seed: int, ties: bool, rows: int, step: int) -> None:
    embeddings, labels = world(seed, ties=ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_module, "ROWS", rows)
        patch.setattr(module, "STEP", step)
        found = IdentityTar(embeddings, labels, FARS)
        tars = {far: found(far, drawn(found.identities, seed)) for far in found.fars}
    assert found.fars == FARS
    for place, weights in enumerate(drawn(found.identities, seed)):
        scores, same = repeated(embeddings, labels, weights)
        expected = verify_pairs(scores, same, FARS).tar
        assert {far: tars[far][place] for far in FARS} == expected


@pytest.mark.parametrize("ties", [False, True])
def test_of_all_once_it_is_the_metric_itself(ties: bool) -> None:
    embeddings, labels = world(1, identities=60, images=700, ties=ties)
    found, whole = IdentityTar(embeddings, labels, (1e-2, 1e-3)), verify(embeddings, labels, (1e-2, 1e-3))
    once = np.ones((1, found.identities), np.int64)
    assert {far: found(far, once)[0] for far in found.fars} == whole.tar
    assert pair_counts(found.sizes) == (whole.genuine, whole.impostor)
    for threshold in (whole.threshold[1e-2], 0.0, 2.0):
        frozen, expected = IdentityRates(threshold, embeddings, labels), rates_at(threshold, embeddings, labels)
        assert frozen.far(once)[0] == expected.far
        assert frozen.frr(once)[0] == pytest.approx(1 - expected.tar)


def test_frozen_rates_of_a_draw_are_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "ROWS", 16)
    embeddings, labels = world(2)
    found = IdentityRates(0.25, embeddings, labels)
    weights = drawn(found.identities, 0)
    for row, far, frr in zip(weights, found.far(weights), found.frr(weights), strict=True):
        scores, same = repeated(embeddings, labels, row)
        assert far == pytest.approx(np.mean(scores[~same] > 0.25))
        assert frr == pytest.approx(np.mean(scores[same] <= 0.25))


def test_a_collapsed_model_keeps_no_more_than_others() -> None:
    """All scores alike: no impostor is above another, so that nothing is accepted."""
    labels = np.arange(900) // 3
    found = IdentityTar(np.ones((900, 4), np.float32), labels, (1e-3,))
    assert len(found._impostor) <= max(module.LEAST, module.TAIL * int(1e-3 * pair_counts(found.sizes)[1]))
    assert found(1e-3, np.ones((1, 300), np.int64)) == [0.0]


def test_a_draw_without_pairs_of_a_kind_has_no_value() -> None:
    embeddings, labels = world(3, identities=3, images=9)
    found = IdentityTar(embeddings, labels, (0.2,))
    frozen = IdentityRates(0.5, embeddings, labels)
    alone = np.diag([found.identities] * found.identities)
    assert np.isnan(found(0.2, alone)).all()
    assert np.isnan(frozen.far(alone)).all()
    single = IdentityTar(embeddings[:4], np.array([0, 0, 1, 2]), (0.5,))
    assert np.isnan(single(0.5, np.array([[0, 1, 2]]))).all()


def test_a_draw_that_asks_for_more_impostors_than_are_kept_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL", 1)
    monkeypatch.setattr(module, "LEAST", 0)
    embeddings, labels = world(5)
    found = IdentityTar(embeddings, labels, (0.1,))
    tars = found(0.1, drawn(found.identities, 0, 50))
    assert 0 < np.isnan(tars).sum() < 50
    monkeypatch.setattr(module, "LEAST", 1 << 12)
    whole = IdentityTar(embeddings, labels, (0.1,))(0.1, drawn(found.identities, 0, 50))
    assert (tars == whole)[~np.isnan(tars)].all()


def test_what_cannot_be_weighed_is_refused_or_left_out() -> None:
    embeddings, labels = world(4)
    with pytest.raises(UserError, match="0 impostor pairs"):
        IdentityTar(embeddings, np.zeros(60, np.int64), (0.1,))
    with pytest.raises(UserError, match="0 genuine"):
        IdentityRates(0.5, embeddings, np.arange(60))
    with pytest.raises(UserError, match="NaN"):
        IdentityRates(float("nan"), embeddings, labels)
    with pytest.raises(UserError, match="NaN, infinite or zero"):
        IdentityTar(np.full((60, 2), np.nan, np.float32), labels, (0.1,))
    assert IdentityTar(embeddings, labels, (1e-6,)).fars == ()
