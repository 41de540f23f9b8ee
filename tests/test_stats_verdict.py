"""Verdicts, sample sizes and several claims at once: by simulation, by brute force, and by the committed rates."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from benchmarks.verdicts import RESULT, accuracy, powered
from kd2edge.stats import (
    Decision,
    Direction,
    Interval,
    Says,
    decide,
    decision,
    detectable_change,
    detectable_drop,
    detectable_percentile,
    drop_interval,
    drop_samples,
    drop_score,
    holm,
    interval_samples,
    percentile,
    percentile_interval,
    percentile_samples,
    simultaneous,
)

NAN, INF = math.nan, math.inf
NAMES = [row["case"] for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]]


@pytest.mark.parametrize(
    ("interval", "at_least", "at_most"),
    [
        ((1.1, 1.2), "ship", "hold"),
        ((0.8, 0.9), "hold", "ship"),
        ((0.9, 1.1), "undecided", "undecided"),
        ((1.0, 1.1), "ship", "undecided"),
        ((0.9, 1.0), "undecided", "ship"),
        ((1.0, 1.0), "ship", "ship"),
        ((1.1, INF), "ship", "hold"),
        ((-INF, INF), "undecided", "undecided"),
        ((NAN, 2.0), "hold", "hold"),
        ((0.0, NAN), "hold", "hold"),
        (None, "undecided", "undecided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(interval: Interval | None, at_least: Says, at_most: Says) -> None:
    assert decide(interval, 1.0, "at_least") == at_least
    assert decide(interval, 1.0, "at_most") == at_most
    assert decide(interval, NAN, "at_most") == "hold"


def test_faulty_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="exchanged"):
        decide((2.0, 1.0), 0.0, "at_most")
    with pytest.raises(ValueError, match="at_least or at_most"):
        decide((1.0, 2.0), 0.0, "about")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="power"):
        interval_samples(1.0, (0.0, 2.0), 1.5, 10, power=0.4)
    with pytest.raises(ValueError, match="samples"):
        interval_samples(1.0, (0.0, 2.0), 1.5, 0)
    with pytest.raises(ValueError, match="percentile"):
        percentile_samples([1.0], 100, 2.0)


def test_undecided_says_how_many_more_and_what_they_would_decide() -> None:
    half = decision(0.0, (-1.0, 1.0), 0.5, "at_most", 100, power=0.5)
    assert half == Decision("undecided", 300, "ship")  # twice as narrow, on four times as many
    assert decision(0.0, (-1.0, 1.0), 0.5, "at_least", 100, power=0.5) == Decision("undecided", 300, "hold")
    surer = decision(0.0, (-1.0, 1.0), 0.5, "at_most", 100)
    factor = (norm.ppf(0.975) + norm.ppf(0.8)) / norm.ppf(0.975)
    assert surer.more == math.ceil(400 * factor**2) - 100
    assert decision(0.5, (-1.0, 1.0), 0.5, "at_most", 100) == Decision("undecided")
    assert decision(0.4999, (-1.0, 1.0), 0.5, "at_most", 100) == Decision("undecided")
    assert decision(0.0, (-1.0, 1.0), 2.0, "at_most", 100) == Decision("ship")
    assert interval_samples(0.0, (-1.0, 1.0), 2.0, 100) == 100


directions = st.sampled_from(["at_least", "at_most"])


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(-2, 2), directions, st.integers(1, 5000))
def test_as_many_as_asked_for_decide_what_was_said(
    value: float, down: float, up: float, bound: float, direction: Direction, n: int
) -> None:
    interval = value - down, value + up
    said = decision(value, interval, bound, direction, n, power=0.5)
    assert said.says == decide(interval, bound, direction)
    if said.more is None:
        return
    smaller = math.sqrt(n / (n + said.more * 1.001 + 1))
    assert decide((value - down * smaller, value + up * smaller), bound, direction) == said.towards


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(200, 3000), st.floats(-0.05, 0.1))
def test_images_at_even_chance_are_those_at_which_the_score_is_on_the_edge(
    lost: int, won: int, both: int, margin: float
) -> None:
    """At the same rates Tango's statistic grows as the root of the images, to that of the interval's end."""
    n = lost + won + both
    needed = drop_samples(lost, won, n, margin, power=0.5)
    edge = n * (norm.ppf(0.975) / drop_score(lost, won, n, margin)) ** 2 if needed else None
    assert needed is None or needed - 1 <= (edge or 0) * (1 + 1e-9) <= needed * (1 + 2e-9)


def test_no_number_of_images_tells_a_drop_from_a_margin_beside_it() -> None:
    assert drop_samples(0, 0, 200, 5e-324) is None
    assert drop_samples(4, 2, 200, 0.01) is None


def test_images_asked_for_decide_as_often_as_promised() -> None:
    random, runs = np.random.default_rng(1), 600
    for drop, right in ((0.0, "ship"), (0.02, "hold")):
        judge = accuracy(drop, powered(drop))
        assert np.mean([judge(random) == right for _ in range(runs)]) == pytest.approx(0.8, abs=0.06)


def test_the_least_drop_that_images_could_show_is_shown_as_often_as_promised() -> None:
    n, lost, won = 3000, 60, 60
    least = detectable_drop(lost, won, n)
    assert least is not None
    random, discordant = np.random.default_rng(2), (lost + won) / n
    shown = 0
    for a, b in random.multinomial(n, [(discordant + least) / 2, (discordant - least) / 2, 1 - discordant], 800)[:, :2]:
        shown += drop_interval(int(a), int(b), n)[0] > 0
    assert shown / 800 == pytest.approx(0.8, abs=0.05)
    assert least == pytest.approx((1.96 + 0.8416) * math.sqrt(discordant / n), rel=0.05)
    assert detectable_drop(0, 0, 3) is None
    assert detectable_drop(0, 0, 10_000) == pytest.approx((1.96 + 0.8416) ** 2 / 10_000, rel=1e-3)


def test_percentiles_are_decided_by_as_many_samples_as_asked_for() -> None:
    random, bound = np.random.default_rng(3), 2.6
    many = random.exponential(size=100_000)  # the 90th percentile is 2.303, and 92.57 % are within the bound
    needed = percentile_samples(many, 90, bound)
    share = 1 - math.exp(-bound)
    error = norm.ppf(0.975) * 0.3 + norm.ppf(0.8) * math.sqrt(share * (1 - share))
    assert needed == pytest.approx((error / (share - 0.9)) ** 2, rel=0.1)
    runs = [percentile_interval(random.exponential(size=needed), 90) for _ in range(400)]
    assert np.mean([decide(run, bound, "at_most") == "ship" for run in runs]) == pytest.approx(0.8, abs=0.07)
    assert percentile_samples(np.arange(1, 101), 50, 50.0) is None
    assert percentile_samples(np.arange(1, 101), 50, 1e9, power=0.5) == 4


def test_the_least_rise_of_a_percentile_that_samples_could_show() -> None:
    samples = np.arange(10_000.0)
    ranks = (norm.ppf(0.975) + norm.ppf(0.8)) * math.sqrt(0.25 * 10_000)
    assert detectable_percentile(samples, 50) == pytest.approx(ranks, abs=2)
    assert detectable_percentile(samples[:100], 99) is None
    assert percentile(samples, 50) == 4999
    factor = (norm.ppf(0.975) + norm.ppf(0.8)) / norm.ppf(0.975)
    assert detectable_change((1.0, 3.0)) == pytest.approx(factor)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float], level: float) -> None:
    """A claim is made where every set of claims that holds it is rejected by Bonferroni's test of that set."""
    places = range(len(p_values))
    sets = [some for size in range(1, len(p_values) + 1) for some in itertools.combinations(places, size)]
    made = [
        all(min(p_values[i] for i in some) * len(some) <= level for some in sets if place in some) for place in places
    ]
    assert [adjusted <= level for adjusted in holm(p_values)] == made


def test_several_intervals_hold_together() -> None:
    assert simultaneous(0.95, 1) == pytest.approx(0.95)
    assert simultaneous(0.95, 10) == pytest.approx(0.995)
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for faulty in ([1.5], [NAN], [-0.1]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(faulty)
    with pytest.raises(ValueError, match="claims"):
        simultaneous(0.95, 0)


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(RESULT).read_text(encoding="utf-8"))
    return {row["case"]: row for row in found["rows"]}


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_rates_are_the_promised_ones(committed: dict[str, Any], name: str) -> None:
    """Within three standard deviations of as many runs; each verdict by itself where the law bounds each."""
    row = committed[name]
    runs = row["runs"]
    assert runs >= 2000
    assert row["ship"] + row["hold"] + row["undecided"] == runs
    wrong = [row[verdict] for verdict in row["wrong"]]
    assert row["wrong_rate"] == pytest.approx(sum(wrong) / runs, abs=1e-5)
    assert row["wrong_interval"][0] <= row["wrong_rate"] <= row["wrong_interval"][1]
    promised = [(count, row["allowed"]) for count in wrong] if "allowed" in row else [(sum(wrong), row["stated"])]
    for count, rate in promised:
        assert count / runs <= rate + 3 * math.sqrt(rate * (1 - rate) / runs)
    if "claimed" in row:
        noise = 3 * math.sqrt(row["power"] * (1 - row["power"]) / runs)
        assert row[row["claimed"]] / runs == pytest.approx(row["power"], abs=noise)


def test_clear_cases_are_decided_rightly_and_the_corrections_do_what_they_cost(committed: dict[str, Any]) -> None:
    for kind in ("accuracy", "subjects"):
        for case, right in (("far worse", "hold"), ("better", "ship")):
            row = committed[f"{kind}, {case}"]
            assert row[right] >= 0.98 * row["runs"]
    assert committed["latency p50, faster"]["ship"] >= 0.98 * committed["latency p50, faster"]["runs"]
    assert committed["latency p50, slower"]["hold"] >= 0.98 * committed["latency p50, slower"]["runs"]
    for name, corrected in (("looked twice", "looked twice, corrected"),
                            ("three models, on the margin", "three models, corrected"),
                            ("subjects, taken for images", "subjects, on the margin")):  # fmt: skip
        assert committed[name]["wrong_rate"] > 1.5 * committed[corrected]["wrong_rate"]
