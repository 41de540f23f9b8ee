"""One-shot episodes: their make-up, their stability, and models whose accuracy is known beforehand."""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from kd2edge.errors import UserError
from kd2edge.metrics import episodes, one_shot

Ints = npt.NDArray[np.int64]


def drawings(characters: tuple[int, ...] = (20, 26, 47), hands: int = 20) -> tuple[Ints, Ints, Ints]:
    """Labels, alphabets and writers of alphabets with so many characters, each drawn once by every writer."""
    alphabet = np.repeat(np.arange(len(characters)), characters)
    count = len(alphabet)
    return np.repeat(np.arange(count), hands), np.repeat(alphabet, hands), np.tile(np.arange(1, hands + 1), count)


def test_an_episode_is_twenty_characters_twice() -> None:
    labels, alphabets, writers = drawings()
    found = episodes(labels, alphabets, writers)
    assert [alphabet for alphabet, _, _ in found] == [0, 1, 2]
    for alphabet, support, query in found:
        assert support.shape == query.shape == (20, 20)
        assert (labels[support] == labels[query]).all()
        assert (alphabets[support] == alphabet).all()
        assert all(len(set(row)) == 20 for row in labels[support].tolist())
        assert (writers[support] == writers[support][:, :1]).all()
        assert (writers[query] == writers[query][:, :1]).all()
        assert (writers[support] != writers[query]).all()


def test_episodes_are_the_same_everywhere() -> None:
    """A pin, not a golden value: accuracies are comparable only as long as the draw stays this one."""
    text = "".join(f"{a}{s.tolist()}{q.tolist()}" for a, s, q in episodes(*drawings(), seed=0))
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "b277a34739242032c570b852c9883766e5bc807e603b95977817a930d4425903"
    )


def test_other_alphabets_do_not_matter() -> None:
    alone, together = episodes(*drawings((20,))), episodes(*drawings((20, 26, 47)))
    np.testing.assert_array_equal(alone[0][1], together[0][1])


def test_the_seed_and_nothing_else_draws() -> None:
    labels, alphabets, writers = drawings()
    order = np.random.default_rng(1).permutation(len(labels))
    for (_, support, query), (_, shuffled_support, shuffled_query) in zip(
        episodes(labels, alphabets, writers, seed=3),
        episodes(labels[order], alphabets[order], writers[order], seed=3),
        strict=True,
    ):
        np.testing.assert_array_equal(support, order[shuffled_support])
        np.testing.assert_array_equal(query, order[shuffled_query])
    other = episodes(labels, alphabets, writers, seed=4)[0]
    assert (other[1] != episodes(labels, alphabets, writers, seed=3)[0][1]).any()


def test_a_perfect_model_a_blind_one_and_one_that_knows_the_writer() -> None:
    labels, alphabets, writers = drawings()
    perfect = one_shot(np.eye(93, dtype=np.float32)[labels], labels, alphabets, writers)
    assert (perfect.accuracy, perfect.trials) == (1.0, 3 * 20 * 20)
    blind = one_shot(np.ones((len(labels), 4), np.float32), labels, alphabets, writers)
    assert blind.accuracy == pytest.approx(1 / 20)
    knows_hands = one_shot(np.eye(21, dtype=np.float32)[writers], labels, alphabets, writers)
    assert knows_hands.accuracy == pytest.approx(1 / 20)


def test_accuracy_by_alphabet() -> None:
    labels, alphabets, writers = drawings()
    vectors = np.eye(93, dtype=np.float32)[labels]
    vectors[alphabets == 1] = 1
    found = one_shot(vectors, labels, alphabets, writers, runs=7)
    assert found.by_alphabet == pytest.approx({0: 1.0, 1: 0.05, 2: 1.0})
    assert found.accuracy == pytest.approx(2.05 / 3)
    assert found.trials == 3 * 7 * 20


def test_half_the_characters_told_apart() -> None:
    """Ten characters have a direction of their own and ten share one: the first of those ten wins its trial."""
    labels, alphabets, writers = drawings((20,))
    vectors = np.eye(11, dtype=np.float32)[np.minimum(labels, 10)]
    assert one_shot(vectors, labels, alphabets, writers).accuracy == pytest.approx(11 / 20)


def test_small_alphabets_are_left_out() -> None:
    labels, alphabets, writers = drawings((19, 20))
    found = one_shot(np.eye(39, dtype=np.float32)[labels], labels, alphabets, writers)
    assert list(found.by_alphabet) == [1]
    assert one_shot(np.eye(39, dtype=np.float32)[labels], labels, alphabets, writers, ways=5).trials == 2 * 20 * 5


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="No alphabet"):
        episodes(*drawings((19,)))
    with pytest.raises(UserError, match="No alphabet"):
        episodes(*drawings((20,), hands=1))
    labels, alphabets, writers = drawings((20,))
    kept = ~((labels == 3) & (writers > 10))
    with pytest.raises(UserError, match="missing, the first of character 3"):
        episodes(labels[kept], alphabets[kept], writers[kept])
    with pytest.raises(UserError, match="NaN"):
        one_shot(np.full((400, 2), np.nan, np.float32), labels, alphabets, writers)
