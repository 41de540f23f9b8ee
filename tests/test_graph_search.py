"""The search against exhaustive ones, on oracles whose every answer is known, interrupted anywhere."""

import random
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kd2edge.graph.search import EXCHANGES, UNTOLD, WHOLE, Measure, decide, search
from kd2edge.schema.search import Budget, Choice, Point, Score, Timing

COST = st.floats(0, 2).map(lambda value: round(value, 3))
SAVING = st.floats(-0.03, 0.08).map(lambda value: round(value, 3))


def point(choice: Choice, drop: float, ratio: float, spread: float = 0.0) -> Point:
    score = Score(value=90 - drop, drop=drop, low=drop, high=drop, cosine=1 - drop / 1000, images=10)
    timing = Timing(
        p50=2 * ratio, low=0, high=9, n=99, ratio=ratio, ratio_low=ratio - spread, ratio_high=ratio + spread
    )
    return Point(choice=choice, score=score, timing=timing)


def additive(costs: dict[str, float], savings: dict[str, float]) -> Measure:
    """Each INT8 group costs points and saves time, whatever the others are."""

    def measure(choice: Choice) -> Point:
        drop = sum(costs[name] for name in choice.int8)
        return point(choice, drop, 1 - sum(savings[name] for name in choice.int8))

    return measure


def subsets(groups: list[str]) -> list[Choice]:
    return [Choice(int8=chosen) for size in range(len(groups) + 1) for chosen in combinations(groups, size)]


@st.composite
def oracles(draw: st.DrawFn, least: int, most: int) -> tuple[list[str], Measure, Budget]:
    groups = [f"g{index}" for index in range(draw(st.integers(least, most)))]
    costs = {name: draw(COST) for name in groups}
    savings = {name: draw(SAVING) for name in groups}
    max_drop = draw(st.floats(0, 4))
    max_ratio = draw(st.none() | st.floats(0.4, 1.1))
    return groups, additive(costs, savings), Budget(max_drop=max_drop, max_ratio=max_ratio)


@settings(max_examples=150, deadline=None)
@given(oracles(1, WHOLE))
def test_few_groups_end_where_an_exhaustive_search_ends(oracle: tuple[list[str], Measure, Budget]) -> None:
    groups, measure, budget = oracle
    points = search(groups, measure, budget)
    best = decide(points, budget).best
    every = [measure(choice) for choice in subsets(groups)]
    met = [one for one in every if one.drop <= budget.max_drop and one.ratio <= (budget.max_ratio or 9)]
    if best is None:
        assert not met
    else:
        assert points[best] in met
        assert points[best].ratio == min(one.ratio for one in met)


@settings(max_examples=100, deadline=None)
@given(oracles(WHOLE + 1, 9))
def test_many_groups_end_within_the_budget_where_no_one_change_is_faster(
    oracle: tuple[list[str], Measure, Budget],
) -> None:
    groups, measure, budget = oracle
    points = search(groups, measure, budget)
    decision = decide(points, budget)
    if decision.best is not None:
        assert budget.met(points[decision.best])
    else:
        assert budget.max_ratio is not None
        assert not any(budget.met(one) for one in points)
    assert decision.accurate is not None  # FP32 loses nothing
    fastest = points[decision.accurate]
    for name in groups:
        chosen = {*fastest.choice.int8} ^ {name}
        near = measure(Choice(int8=tuple(one for one in groups if one in chosen)))
        assert not budget.accurate(near) or near.ratio >= fastest.ratio - UNTOLD - 1e-9
    assert len({one.choice for one in points}) == len(points) < 2 ** len(groups)


@settings(max_examples=60, deadline=None)
@given(oracles(1, 8), st.integers(1, 5), st.integers(0, 99))
def test_interrupted_after_any_measurement_it_resumes_to_the_same_points(
    oracle: tuple[list[str], Measure, Budget], every: int, seed: int
) -> None:
    groups, exact, budget = oracle

    def noisy(noise: random.Random) -> Measure:
        def measure(choice: Choice) -> Point:
            true = exact(choice)
            return point(choice, true.drop, true.ratio * noise.uniform(0.97, 1.03), 0.01)

        return measure

    straight = search(groups, noisy(random.Random(seed)), budget)
    journal: dict[Choice, Point] = {}
    measure = noisy(random.Random(seed))
    found: list[Point] | None = None
    sessions = 0
    while found is None:
        found = _session(groups, budget, journal, measure, every)
        sessions += 1
    assert found == straight
    assert sessions == len(straight) // every + 1


class Killed(Exception):
    pass


def _session(
    groups: list[str], budget: Budget, journal: dict[Choice, Point], measure: Measure, calls: int
) -> list[Point] | None:
    """A search that is killed before it has measured `calls` + 1 new choices."""
    left = calls

    def once(choice: Choice) -> Point:
        nonlocal left
        if choice not in journal:
            if not left:
                raise Killed
            left -= 1
            journal[choice] = measure(choice)
        return journal[choice]

    try:
        found = search(groups, once, budget)
    except Killed:
        return None
    return found if left else None  # all is measured, and the kill came before the answer


GROUPS = [f"g{index}" for index in range(8)]


def test_the_group_that_costs_most_for_its_time_returns_first() -> None:
    costs = dict.fromkeys(GROUPS, 0.05) | {"g3": 5.0}
    points = search(GROUPS, additive(costs, dict.fromkeys(GROUPS, 0.05)), Budget(max_drop=0.5))
    best = decide(points, Budget(max_drop=0.5)).best
    assert best is not None
    assert {*GROUPS} - {*points[best].choice.int8} == {"g3"}


def test_a_return_that_does_not_help_is_reverted() -> None:
    def measure(choice: Choice) -> Point:
        """In float alone g0 mends most; once g1 is float too, it is g0 that harms."""
        chosen = {*choice.int8}
        drop = 3.0 if {"g0", "g1"} <= chosen else 1.0 if "g1" in chosen else 2.0 if "g0" not in chosen else 0.1
        return point(choice, drop if choice.int8 else 0.0, 1 - 0.05 * len(chosen))

    budget = Budget(max_drop=0.5)
    points = search(GROUPS, measure, budget)
    best = decide(points, budget).best
    assert best is not None
    assert {*GROUPS} - {*points[best].choice.int8} == {"g1"}


def test_two_groups_that_only_help_together_are_both_returned() -> None:
    def measure(choice: Choice) -> Point:
        harmful = bool({"g2", "g5"} & {*choice.int8})
        return point(choice, 4.0 if harmful else 0.0, 1 - 0.05 * len(choice.int8))

    budget = Budget(max_drop=0.1)
    points = search(GROUPS, measure, budget)
    best = decide(points, budget).best
    assert best is not None
    assert {*GROUPS} - {*points[best].choice.int8} == {"g2", "g5"}


REVIEWED = {  # costs, savings, and the one graph of six groups within 1.2 points and 0.92 of FP32's time
    "g0": (0.58, 0.01),
    "g1": (0.45, 0.05),
    "g2": (0.66, 0.04),
    "g3": (1.0, 0.05),
    "g4": (0.92, 0.07),
    "g5": (0.79, 0.02),
}


def test_a_graph_that_is_reached_by_no_single_change_is_found() -> None:
    oracle = additive({n: c for n, (c, _) in REVIEWED.items()}, {n: s for n, (_, s) in REVIEWED.items()})
    budget = Budget(max_drop=1.2, max_ratio=0.92)
    points = search(list(REVIEWED), oracle, budget)
    best = decide(points, budget).best
    assert best is not None
    assert points[best].choice.int8 == ("g1", "g2")


def test_budgets_that_one_graph_just_meets_are_met() -> None:
    noise = random.Random(0)
    for _ in range(25):
        costs = {name: round(noise.uniform(0, 1), 3) for name in GROUPS}
        savings = {name: round(noise.uniform(-0.02, 0.08), 3) for name in GROUPS}
        measure, max_drop = additive(costs, savings), noise.uniform(0.5, 2.5)
        least = min(one.ratio for one in map(measure, subsets(GROUPS)) if one.drop <= max_drop)
        budget = Budget(max_drop=max_drop, max_ratio=least + 0.001)
        points = search(GROUPS, measure, budget)
        assert decide(points, budget).best is not None


def test_a_budget_out_of_reach_costs_a_bounded_number_of_measurements() -> None:
    """Errors and times that do not add up at all, so that estimates say nothing."""

    def measure(choice: Choice) -> Point:
        noise = random.Random(repr(choice.int8))
        return point(choice, noise.uniform(0.1, 2), noise.uniform(0.8, 1.1)) if choice.int8 else point(choice, 0, 1)

    names = [f"g{index}" for index in range(14)]
    free = search(names, measure, Budget(max_drop=0.4))
    bound = search(names, measure, Budget(max_drop=0.4, max_ratio=0.1))
    assert bound[: len(free)] == free
    improved = 1 + sum(one.drop <= 0.4 for one in bound[len(free) :])
    assert len(free) < len(bound) <= len(free) + EXCHANGES * len(names) + improved * len(names)


def test_a_group_that_int8_slows_down_goes_back_to_float() -> None:
    savings = dict.fromkeys(GROUPS, 0.05) | {"g6": -0.1}
    budget = Budget(max_drop=1)
    points = search(GROUPS, additive(dict.fromkeys(GROUPS, 0.0), savings), budget)
    best = decide(points, budget).best
    assert best is not None
    assert {*GROUPS} - {*points[best].choice.int8} == {"g6"}


def with_half(half: tuple[float, float]) -> Callable[[Choice], Point]:
    def measure(choice: Choice) -> Point:
        drop, ratio = half if choice.rest == "fp16" else (0.0, 1.0)
        return point(choice, drop + 0.2 * len(choice.int8), ratio * (1 - 0.1 * len(choice.int8)))

    return measure


@pytest.mark.parametrize(
    ("half", "rest"), [((0.0, 0.6), "fp16"), ((0.0, 1.3), "fp32"), ((2.0, 0.6), "fp32")], ids=["good", "slow", "lossy"]
)
def test_what_is_not_int8_is_fp16_where_that_is_faster_and_within_the_budget(
    half: tuple[float, float], rest: str
) -> None:
    points = search(["a", "b"], with_half(half), Budget(max_drop=0.5), fp16=True)
    assert points[1].choice == Choice(rest="fp16")
    assert {one.choice.rest for one in points if one.choice.int8} == {rest}


def test_a_graph_that_cannot_be_had_is_no_answer() -> None:
    def measure(choice: Choice) -> Point:
        if "g0" in choice.int8:
            return Point(choice=choice, fault="the builder refuses it")
        return point(choice, 0.0, 1 - 0.05 * len(choice.int8))

    budget = Budget(max_drop=0)
    points = search(GROUPS, measure, budget)
    decision = decide(points, budget)
    assert decision.best is not None
    assert points[decision.best].choice.int8 == tuple(GROUPS[1:])
    assert all(points[index].fault is None for index in decision.front)


def test_fp32_ships_unless_another_is_faster_beyond_the_interval() -> None:
    fp32, mix = Choice(), Choice(int8=("a",))
    within_noise = [point(fp32, 0, 1), point(mix, 0, 0.98, spread=0.05)]
    beyond_it = [point(fp32, 0, 1), point(mix, 0, 0.9, spread=0.05)]
    assert decide(within_noise, Budget(max_drop=1)).best == 0
    assert decide(beyond_it, Budget(max_drop=1)).best == 1
    assert decide(within_noise, Budget(max_drop=1, max_ratio=0.99)).best == 1  # FP32 is too slow


def test_without_an_answer_the_nearest_points_are_told() -> None:
    points = [
        point(Choice(), 0, 1),
        point(Choice(int8=("a",)), 0.4, 0.9),
        point(Choice(int8=("a", "b")), 2.0, 0.5),
        point(Choice(int8=("b",)), 2.5, 0.7),
    ]
    decision = decide(points, Budget(max_drop=0.5, max_ratio=0.6))
    assert (decision.best, decision.accurate, decision.fast) == (None, 1, 2)
    assert decision.front == (2, 1, 0)
    assert decide(points, Budget(max_drop=0.5, max_ratio=0.4)).fast is None


def test_a_budget_is_in_ms_or_a_ratio() -> None:
    with pytest.raises(ValidationError, match="not both"):
        Budget(max_drop=1, max_latency=1, max_ratio=1)
