"""Templates against the loops that the IJB protocol is told in, and scikit-learn's ROC; intervals against counting."""

import itertools
from math import isnan

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from kd2edge.data import Templates
from kd2edge.errors import UserError
from kd2edge.metrics import IJB_FARS, Pooling, judge_templates, pair_scores, pool, roc_at, template_tars, verify_pairs
from kd2edge.metrics import _clusters as clusters
from kd2edge.metrics import roc as roc_module
from kd2edge.metrics import templates as module

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
FARS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def release(seed: int, images: int = 300, people: int = 20, step: int = 3) -> tuple[Floats, Templates]:
    """Embeddings of unequal length in no order, and templates of them numbered by `step`, two or more a person."""
    random = np.random.default_rng(seed)
    template = np.concatenate([np.arange(3 * people), random.integers(0, 3 * people, images - 3 * people)])
    random.shuffle(template)
    subject = np.arange(3 * people) % people
    centres = random.standard_normal((people, 32))
    near = centres[subject[template]] + 2 * random.standard_normal((images, 32))
    embeddings = (near * random.uniform(0.2, 3, (images, 1))).astype(np.float32)
    one, other = np.divmod(random.permutation(people * 2 * people), 2 * people)
    pairs = np.stack([one, other + people], axis=1)
    everyone = np.stack([step * np.arange(3 * people), subject], axis=1)
    protocol = Templates(
        step * template,
        random.integers(0, images // 4, images) * 11,
        random.uniform(0.1, 1, images).astype(np.float32),
        step * pairs,
        subject[pairs[:, 0]] == subject[pairs[:, 1]],
        {"G1": everyone[: people // 2], "G2": everyone[people // 2 : people]},
        {"mixed": everyone[people:]},
    )
    return embeddings, protocol


def pooled_by_loop(embeddings: Floats, protocol: Templates, pooling: Pooling) -> dict[int, npt.NDArray[np.float64]]:
    """Template by template and medium by medium, in float64."""
    images = embeddings.astype(np.float64)
    if not pooling.keep_norm:
        images /= np.linalg.norm(images, axis=1, keepdims=True)
    if pooling.detector_score:
        images *= protocol.faceness[:, None]
    found = {}
    for template in np.unique(protocol.template).tolist():
        mine = protocol.template == template
        if pooling.media_mean:
            media = [images[mine & (protocol.media == medium)] for medium in np.unique(protocol.media[mine])]
            total = np.sum([frames.mean(axis=0) for frames in media], axis=0)
        else:
            total = images[mine].sum(axis=0)
        found[template] = total / np.linalg.norm(total)
    return found


@pytest.mark.parametrize("options", list(itertools.product([True, False], repeat=3)))
def test_pooling_is_that_of_the_loop(options: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES", 37)
    embeddings, protocol = release(seed=sum(options))
    known, vectors = pool(embeddings, protocol, Pooling(*options))
    expected = pooled_by_loop(embeddings, protocol, Pooling(*options))
    assert known.tolist() == list(expected)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.array(list(expected.values())), atol=1e-6)


@pytest.mark.parametrize("listed", ["apart", "together", "few"])
def test_scores_are_cosines_however_they_are_computed(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((90, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(module, "ROWS", 16)
    monkeypatch.setattr(module, "PAIRS", 100)
    monkeypatch.setattr(module, "DENSE", 0 if listed == "few" else 1000)
    one, other = (random.integers(0, 90, 700).astype(np.int32) for _ in range(2))
    if listed == "apart":
        one, other = one // 3, other // 3 + np.int32(60)
    exact = np.sum(vectors[one].astype(np.float64) * vectors[other], axis=1)
    np.testing.assert_allclose(pair_scores(vectors, one, other), exact, atol=1e-6)


def nearest_by_scikit(scores: Floats, same: Bools, far: float) -> tuple[float, float]:
    """FPR and TPR where the public scripts look: the flipped curve's first of the points nearest to the FAR."""
    fpr, tpr, _ = roc_curve(same, scores)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    best = min((abs(rate - far), place) for place, rate in enumerate(fpr.tolist()))[1]
    return float(fpr[best]), float(tpr[best])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 300),
    st.sampled_from([3, 20, 100_000]),
    st.sampled_from([0.02, 0.3, 0.7]),
    st.sampled_from([0, 2, 50]),
    st.integers(1, len(FARS)),
)
def test_both_rules_agree_with_scikit_and_with_the_exact_metric(
    seed: int, n: int, levels: int, share: float, lift: int, fars: int
) -> None:
    random = np.random.default_rng(seed)
    same = random.random(n) < share
    assume(same.any() and not same.all())
    scores = (random.integers(0, levels, n) + lift * same).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roc_module, "MARGIN", 1)  # tails that are too short at first
        found = roc_at(scores, same, FARS[:fars])
    exact = verify_pairs(scores, same, FARS[:fars])
    assert found.tar == pytest.approx(exact.tar, abs=1e-12, nan_ok=True)
    assert found.threshold == pytest.approx(exact.threshold, nan_ok=True)
    for far in FARS[:fars]:
        assert (found.nearest_far[far], found.nearest_tar[far]) == nearest_by_scikit(scores, same, far)


def test_the_two_rules_worked_by_hand() -> None:
    """From above: genuine, impostor, genuine, genuine, then nine impostors, one genuine among them."""
    scores = np.array([9, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5], np.float32)
    same = np.isin(scores, [9, 7, 6, 2])
    found = roc_at(scores, same, (0.1, 0.2))
    assert (found.impostor, found.genuine) == (10, 4)
    assert (found.tar[0.1], found.threshold[0.1]) == (0.25, 8.0), "strictly above the highest impostor"
    assert (found.tar[0.2], found.threshold[0.2]) == (0.75, 5.0)
    assert (found.nearest_far[0.1], found.nearest_tar[0.1]) == (0.1, 0.75), "one impostor of ten accepted"
    assert (found.nearest_far[0.2], found.nearest_tar[0.2]) == (0.1, 0.75), "0.2 lies on a straight run"


def test_a_release_is_judged_as_a_whole() -> None:
    embeddings, protocol = release(seed=5)
    vectors = pooled_by_loop(embeddings, protocol, Pooling())
    scores = np.array([vectors[one] @ vectors[other] for one, other in protocol.pairs.tolist()])
    result = judge_templates(embeddings, protocol, FARS)
    assert result.roc.tar == pytest.approx(verify_pairs(scores, protocol.same, FARS).tar, nan_ok=True)
    assert result.resampled == "subjects"
    assert result.tars.clusters == 20
    assert result.tars.fars == tuple(far for far in FARS if not isnan(result.roc.tar[far]))
    for far in result.tars.fars:  # how many impostors there are is by its first order exact where all weigh the same
        assert result.tars(far, np.ones((1, 20), np.int64))[0] == result.roc.tar[far]
    tars, resampled = template_tars(embeddings, protocol, FARS)
    drawn = np.random.default_rng(0).multinomial(20, np.full(20, 0.05), 5)
    assert (tars(0.1, drawn) == result.tars(0.1, drawn)).all()
    assert resampled == "subjects"
    first, second = result.galleries["G1"], result.galleries["G2"]
    assert first.mated == second.unmated == 20
    assert result.identification is not None
    assert result.identification.rank[1] == (first.rank[1] + second.rank[1]) / 2
    gallery = np.stack([vectors[template] for template in protocol.galleries["G1"][:, 0].tolist()])
    probes = {row: vectors[row] for row in protocol.probes["mixed"][:, 0].tolist()}
    mated = [(row, subject) for row, subject in protocol.probes["mixed"].tolist() if subject < 10]
    assert first.rank[1] == np.mean([np.argmax(gallery @ probes[row]) == subject for row, subject in mated])


def test_order_and_identifiers_do_not_matter() -> None:
    embeddings, protocol = release(seed=2)
    spread = judge_templates(*release(seed=2, step=10**9), (0.01, 0.1))
    assert repr(judge_templates(embeddings, protocol, (0.01, 0.1))) == repr(spread)  # some are NaN
    order = np.random.default_rng(0).permutation(len(embeddings))
    again = Templates(
        protocol.template[order], protocol.media[order], protocol.faceness[order], protocol.pairs, protocol.same
    )
    found = judge_templates(embeddings[order], again, (0.01, 0.1))
    assert found.roc.tar == pytest.approx(spread.roc.tar, abs=1e-9)
    assert (found.galleries, found.identification, found.resampled) == ({}, None, "templates")


def tar_by_counting(scores: Floats, same: Bools, weights: npt.NDArray[np.int64], far: float, impostors: int) -> float:
    """Each pair as often as its weight says, in a list."""
    wrong, right = np.repeat(scores[~same], weights[~same]), np.repeat(scores[same], weights[same])
    threshold = np.sort(wrong)[::-1][min(max(1, int(far * impostors)), len(wrong)) - 1]
    return float(np.mean(right > threshold)) if len(right) else 0.0


def test_a_draw_of_clusters_is_counted_out() -> None:
    random = np.random.default_rng(3)
    left, right = random.integers(0, 25, 900), random.integers(0, 25, 900)
    same = left == right
    scores = (random.normal(size=900) + 2 * same).astype(np.float32)
    found = clusters.ClusterTar(scores, same, left, right, (0.02, 0.1, 1e-4))
    assert (found.clusters, found.fars) == (25, (0.02, 0.1))
    degree = np.bincount(left[~same], minlength=25) + np.bincount(right[~same], minlength=25)
    draws = random.multinomial(25, np.full(25, 1 / 25), 60)
    for drawn, tar in zip(draws, found(0.02, draws), strict=True):
        weights = np.where(same, drawn[left], drawn[left] * drawn[right])
        assert tar == tar_by_counting(scores, same, weights, 0.02, int(drawn @ degree) - int((~same).sum()))


def test_draws_of_a_thinned_tail_are_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    left, right = random.integers(0, 300, 60_000), random.integers(0, 300, 60_000)
    same = left == right
    scores = (random.normal(size=60_000) + 2 * same).astype(np.float32)
    draws = random.multinomial(300, np.full(300, 1 / 300), 200)
    whole = clusters.ClusterTar(scores, same, left, right, (0.05,))(0.05, draws)
    monkeypatch.setattr(clusters, "KEPT", 6_000)
    thinned = clusters.ClusterTar(scores, same, left, right, (0.05,))(0.05, draws)
    assert np.quantile(thinned, [0.025, 0.975]) == pytest.approx(np.quantile(whole, [0.025, 0.975]), abs=0.03)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("keep_norm", [True, False])
def test_faulty_embeddings_are_refused(value: float, keep_norm: bool) -> None:
    embeddings, protocol = release(seed=0)
    embeddings[7] = value
    with pytest.raises(UserError, match=f"row 7, of template {protocol.template[7]}, is not finite"):
        pool(embeddings, protocol, Pooling(keep_norm=keep_norm))


def test_what_cannot_be_judged_is_refused() -> None:
    embeddings, protocol = release(seed=0)
    with pytest.raises(UserError, match="sum to nothing"):
        judge_templates(np.zeros_like(embeddings), protocol)
    with pytest.raises(UserError, match="do not fit a list of 300"):
        judge_templates(embeddings[:-1], protocol)
    for step in (1, 10**9):
        template, pairs = step * protocol.template, protocol.pairs + 1
        stranger = Templates(template, protocol.media, protocol.faceness, pairs, protocol.same)
        with pytest.raises(UserError, match="of a pair has no images"):
            judge_templates(embeddings, stranger)
    few = Templates(
        protocol.template, protocol.media, protocol.faceness, np.empty((0, 2), np.int64), np.empty(0, np.bool_)
    )
    with pytest.raises(UserError, match="0 genuine and 0 impostor"):
        judge_templates(embeddings, few)
    for name in ("G2", "mixed"):
        embeddings, protocol = release(seed=0)
        template = protocol.galleries["G1"][0, 0]
        lists = protocol.galleries if name == "G2" else protocol.probes
        lists[name] = np.append(lists[name], [[template, 99]], axis=0)
        with pytest.raises(UserError, match=f"Template {template} has two subjects in the galleries and probes"):
            judge_templates(embeddings, protocol)
    with pytest.raises(UserError, match="0 genuine"):
        roc_at(np.ones(3, np.float32), np.zeros(3, np.bool_))
    with pytest.raises(UserError, match="not finite"):
        roc_at(np.array([1, np.nan], np.float32), np.array([True, False]))
    with pytest.raises(UserError, match="FAR"):
        roc_at(np.ones(2, np.float32), np.array([True, False]), (0.0,))
    assert min(IJB_FARS) == 1e-6
