"""Two sessions in turns: who is asked when, and that a machine's own drift leaves the ratio alone."""

import numpy as np
import pytest

from kd2edge.edge.fake import FakeSession
from kd2edge.edge.measure import Nanoseconds
from kd2edge.edge.paired import TURNS, Paired, time_in_turns
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.schema import Latency

BRIEF = Latency(batch=2, warmup_ms=0, seconds=0.12, min_samples=3 * TURNS)
IMAGES = np.zeros((5, 3, 4, 4), np.float32)


class Told(FakeSession):
    """Writes down that it was asked."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def infer(self, x: Floats) -> Floats:
        self.calls.append(self.name)
        assert x.shape == (2, 3, 4, 4)
        return super().infer(x)


def test_the_two_take_turns_and_who_begins_changes() -> None:
    calls: list[str] = []
    taken = time_in_turns(Told("a", calls), Told("b", calls), IMAGES, BRIEF)
    assert [len(taken.model), len(taken.reference)] == [TURNS, TURNS]
    runs = [name for place, name in enumerate(calls) if place == 0 or calls[place - 1] != name]
    assert runs == list("ab" * (TURNS // 2) + "a")  # a b, b a, a b, ...: neighbours of one name run together
    assert taken.p50[3] == sum(map(len, taken.model)) >= 3 * TURNS


def test_without_images_there_is_nothing_to_time() -> None:
    with pytest.raises(UserError, match="no images"):
        time_in_turns(FakeSession(), FakeSession(), IMAGES[:0], BRIEF)


def test_a_ratio_is_that_of_the_two_clocks_seen_from_one() -> None:
    now = 0

    class Taking(FakeSession):
        def infer(self, x: Floats) -> Floats:
            nonlocal now
            now += self.takes
            return super().infer(x)

        takes = 3_000_000

    class Twice(Taking):
        takes = 6_000_000

    taken = time_in_turns(Taking(), Twice(), IMAGES, BRIEF, clock=lambda: now)
    assert taken.ratio == (0.5, 0.5, 0.5)
    assert taken.p50[:3] == (3, 3, 3)


def blocks(medians: list[float]) -> tuple[Nanoseconds, ...]:
    return tuple(np.array([0.9, 1.0, 1.1]) * 1e6 * median for median in medians)  # type: ignore[misc]


def test_a_machine_that_slows_down_does_not_move_the_ratio() -> None:
    drift = [1 + 0.2 * turn for turn in range(12)]
    taken = Paired(blocks([0.5 * d for d in drift]), blocks(drift))
    assert taken.ratio == pytest.approx((0.5, 0.5, 0.5))
    p50, low, high, n = taken.p50
    assert low <= p50 <= high
    assert n == 36


def test_the_interval_of_a_ratio_leaves_out_single_turns_that_went_wrong() -> None:
    taken = Paired(blocks([0.5] * 10 + [5.0, 0.01]), blocks([1.0] * 12))
    assert taken.ratio == pytest.approx((0.5, 0.5, 0.5))
    few = Paired(blocks([0.5, 0.6, 0.7]), blocks([1.0] * 3))
    assert few.ratio == pytest.approx((0.6, 0.5, 0.7))
