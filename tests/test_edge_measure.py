"""The latency protocol on scripted time, and its summary against numbers worked out by hand."""

import numpy as np
import pytest

from kd2edge.edge.fake import FakeSession
from kd2edge.edge.measure import Samples, measure, summary, trace
from kd2edge.errors import UserError
from kd2edge.schema import Latency

IMAGES = np.random.default_rng(0).standard_normal((5, 1, 4, 4)).astype(np.float32)


def timed(session: FakeSession, **latency: float) -> Samples:
    protocol = Latency.model_validate({"warmup_ms": 20, "seconds": 0.1, "min_samples": 50} | latency)
    return measure(session, IMAGES, protocol, clock=session.clock)


def milliseconds(*values: float) -> np.ndarray:
    return np.array([round(1e6 * value) for value in values], np.int64)


def test_sampling_lasts_the_seconds_and_the_samples() -> None:
    by_time = timed(FakeSession(latencies_ms=(1.0,)), seconds=0.3)
    assert len(by_time.ns) == 300
    by_count = timed(FakeSession(latencies_ms=(1.0,)), seconds=0.1, min_samples=400)
    assert len(by_count.ns) == 400
    assert set(by_count.ns.tolist()) == {1_000_000}


def test_sampling_gives_up_on_a_slow_model() -> None:
    slow = timed(FakeSession(latencies_ms=(100.0,)), seconds=1.0, min_samples=662)
    assert len(slow.ns) == 60  # six times the second that was asked for


def test_warm_up_lasts_its_time_and_until_the_median_settles() -> None:
    steady = timed(FakeSession(latencies_ms=(1.0,)), warmup_ms=300.0)
    assert steady.warmup == {"ms": 300.0, "calls": 300, "settled": True}
    falling = FakeSession(latencies_ms=[2.0] * 50 + [1.5] * 50 + [1.0] * 5000)
    settled = timed(falling, warmup_ms=20.0)
    assert settled.warmup["settled"] is True
    assert settled.warmup["calls"] == 200  # the medians of 101..150 and 151..200 are the first pair that agrees


def test_warm_up_of_a_model_that_never_settles_is_bounded_and_told() -> None:
    growing = FakeSession(latencies_ms=[1.0 + 0.01 * i for i in range(3000)])
    warmup = timed(growing, warmup_ms=50.0).warmup
    assert warmup["settled"] is False
    assert 1000 <= warmup["ms"] < 1020


def test_batches_go_round_the_images() -> None:
    class Watching(FakeSession):
        def infer(self, x: np.ndarray) -> np.ndarray:
            seen.append(x.copy())
            return super().infer(x)

    seen: list[np.ndarray] = []
    timed(Watching(), batch=2)
    np.testing.assert_array_equal(seen[0], IMAGES[[0, 1]])
    np.testing.assert_array_equal(seen[2], IMAGES[[4, 0]])
    np.testing.assert_array_equal(seen[3], IMAGES[[0, 1]])


def test_no_images_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no images"):
        measure(FakeSession(), IMAGES[:0], Latency())


def test_summary_of_known_samples() -> None:
    rounds = [milliseconds(*range(1, 401)), milliseconds(*range(401, 801)), milliseconds(*range(801, 1001))]
    numbers, _ = summary(rounds, batch=4)
    assert {name: numbers[name].value for name in ("latency_p50", "latency_p90", "latency_p99")} == {
        "latency_p50": 500.0,
        "latency_p90": 900.0,
        "latency_p99": 990.0,
    }
    assert numbers["latency_mean"].value == 500.5
    assert numbers["latency_std"].value == pytest.approx(np.sqrt((1000**2 - 1) / 12))
    assert numbers["throughput"].value == pytest.approx(1000 * 4 / 500.5)
    assert {number.n for number in numbers.values()} == {1000}
    # The normal approximation of the binomial puts the median's ranks at 500 -+ 1.96 sqrt(1000 / 4) = 469 and 531.
    assert numbers["latency_p50"].low == pytest.approx(469, abs=1)
    assert numbers["latency_p50"].high == pytest.approx(531, abs=1.5)


@pytest.mark.parametrize(
    ("n", "claimed"),
    [(63, {"latency_p50"}), (64, {"latency_p50", "latency_p90"}), (661, {"latency_p50", "latency_p90"})],
)
def test_a_percentile_is_not_claimed_from_too_few_samples(n: int, claimed: set[str]) -> None:
    numbers, _ = summary([milliseconds(*[1.0] * n)], batch=1)
    percentiles = [name for name in numbers if name.startswith("latency_p")]
    assert {name for name in percentiles if numbers[name].usable} == claimed
    assert numbers["latency_p99"].note == f"a p99 needs 662 samples, there are {n}"


def test_a_trace_is_the_nearest_ranks_from_the_fastest_to_the_slowest() -> None:
    hundred = np.random.default_rng(0).permutation(np.arange(1, 101))
    assert trace([milliseconds(*hundred[:30]), milliseconds(*hundred[30:])]) == [1.0, *map(float, range(1, 101))]
    few = trace([milliseconds(3.0, 1.0), milliseconds(2.0)])
    assert few == [1.0] * 34 + [2.0] * 33 + [3.0] * 34  # the ceil(3 q / 100)-th of three, the first at 0


def test_662_samples_are_enough_for_a_p99() -> None:
    numbers, _ = summary([milliseconds(*[1.0] * 662)], batch=1)
    assert numbers["latency_p99"].value == 1.0


def test_unstable_means_a_wide_spread_or_rounds_that_disagree() -> None:
    steady = milliseconds(*[1.0] * 100)
    assert summary([steady, steady, steady], 1)[1]["unstable"] is False
    assert summary([steady, steady, milliseconds(*[1.2] * 100)], 1)[1]["unstable"] is True
    wide = milliseconds(*[1.0, 1.3] * 50)
    assert summary([wide, wide, wide], 1)[1]["unstable"] is True
    one_slow_call = milliseconds(*[1.0] * 99, 30.0)
    assert summary([one_slow_call, steady, steady], 1)[1]["unstable"] is False
    assert summary([steady, wide], 1)[1]["round_medians_ms"] == [1.0, pytest.approx(1.15)]
