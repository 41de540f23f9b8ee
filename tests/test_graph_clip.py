"""The calibrators against brute force over the raw values: outliers, bimodal, one-sided, constant, huge, denormal."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd2edge.graph.clip import clip, divergence
from kd2edge.graph.histogram import BINS, Histogram
from kd2edge.graph.scales import Range, affine, symmetric

Values = NDArray[np.float32]
SHAPES = ("normal", "laplace", "outlier", "bimodal", "one-sided", "negative", "constant", "uniform")


def drawn(shape: str, seed: int, size: int = 4000) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    x = random.standard_normal(size)
    if shape == "laplace":
        return random.laplace(size=size)
    if shape == "outlier":
        x[0] = random.uniform(10, 500)
    elif shape == "bimodal":
        x = 0.1 * x + random.choice([-1.0, 4.0], size)
    elif shape in ("one-sided", "negative"):
        x = np.maximum(x, 0) * (1 if shape == "one-sided" else -1)
    elif shape == "constant":
        x = np.full(size, random.uniform(-3, 3))
    elif shape == "uniform":
        x = random.uniform(-1, 1, size)
    return x


def seen_in(x: Values) -> Histogram:
    histogram = Histogram()
    for batch in np.array_split(x, 3):
        histogram.update(batch)
    return histogram


def fake_quantized(x: Values, limits: Range, signed: bool) -> NDArray[np.float64]:
    """What QuantizeLinear and DequantizeLinear make of `x`, by the ONNX specification."""
    scale, zero = (symmetric(limits), 0) if signed else affine(limits)
    low, high = (-128, 127) if signed else (0, 255)
    x = x.astype(np.float64)
    result: NDArray[np.float64] = (np.clip(np.rint(x / float(scale)) + zero, low, high) - zero) * float(scale)
    return result


def error(x: Values, limits: Range, signed: bool) -> float:
    return float(((fake_quantized(x, limits, signed) - x.astype(np.float64)) ** 2).sum())


CASES = st.tuples(st.sampled_from(SHAPES), st.integers(0, 999), st.sampled_from([1.0, 3e34, 1e-30]))


@given(CASES, st.booleans())
@settings(deadline=None, max_examples=40)
def test_mse_is_as_good_as_the_best_of_a_dense_search(case: tuple[str, int, float], signed: bool) -> None:
    shape, seed, size = case
    x = (drawn(shape, seed) * size).astype(np.float32)
    chosen = error(x, clip(seen_in(x), "mse", signed), signed)
    low, high, largest = float(x.min()), float(x.max()), float(np.abs(x).max())
    shares = np.linspace(1 / 400, 1, 400 if signed else 60)
    if signed:
        tried = [Range(-share * largest, share * largest) for share in shares]
    else:
        lows = [share * min(low, 0.0) for share in shares] if low < 0 else [0.0]
        highs = [share * max(high, 0.0) for share in shares] if high > 0 else [0.0]
        tried = [Range(one, other) for one in lows for other in highs]
    best = min(error(x, limits, signed) for limits in tried)
    resolution = len(x) * (largest / 255 / 16) ** 2  # a constant can be hit exactly by luck
    assert chosen <= 1.25 * best + resolution


@given(CASES, st.booleans())
@settings(deadline=None, max_examples=60)
def test_percentile_is_numpys_to_a_bin(case: tuple[str, int, float], signed: bool) -> None:
    shape, seed, size = case
    x = (drawn(shape, seed, size=50_000) * size).astype(np.float32)
    seen = seen_in(x)
    limits = clip(seen, "percentile", signed)
    if signed:
        ends = np.quantile(np.abs(x).astype(np.float64), [0.9999, 0.9999], method="inverted_cdf") * [-1, 1]
    else:
        ends = np.quantile(x.astype(np.float64), [0.00005, 0.99995], method="inverted_cdf")
    neighbours = np.diff(np.sort(np.abs(x) if signed else x)).max() if shape == "outlier" else 0.0
    for found, expected in zip((limits.low, limits.high), ends, strict=True):
        assert abs(found - expected) <= 1.01 * seen.width + neighbours
        assert abs(found - expected) <= 1.01 * seen.width or shape == "outlier"


@given(CASES, st.booleans())
@settings(deadline=None, max_examples=20)
def test_minmax_is_exact(case: tuple[str, int, float], signed: bool) -> None:
    shape, seed, size = case
    x = (drawn(shape, seed) * size).astype(np.float32)
    assert clip(seen_in(x), "minmax", signed) == Range(float(x.min()), float(x.max()))


def slow_divergence(counts: list[int], first: int, last: int, levels: int) -> float:
    """By the definition, bin by bin: P = the bins from `first` to `last` with what lies outside put into the end bins;
    Q = the same bins without it, every run that falls into one level replaced by its mean over P's non-empty bins."""
    inside = counts[first:last]
    p = [float(value) for value in inside]
    p[0] += sum(counts[:first])
    p[-1] += sum(counts[last:])
    q = [0.0] * len(inside)
    for _, run in itertools.groupby(range(len(inside)), key=lambda k: k * levels // len(inside)):
        bins = list(run)
        used = [k for k in bins if p[k] > 0]
        for k in used:
            q[k] = sum(inside[i] for i in bins) / len(used)
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return float("inf")
    n, m = sum(p), sum(q)
    return float(sum(a / n * math.log(a / n / (b / m)) for a, b in zip(p, q, strict=True) if a > 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_of_magnitudes_is_that_of_the_definition(shape: str) -> None:
    seen = seen_in(drawn(shape, 1).astype(np.float32))
    folded = [int(above + below) for above, below in zip(seen.counts[BINS:], seen.counts[:BINS][::-1], strict=True)]
    reached = max(k for k, count in enumerate(folded) if count) + 1
    slow = {bins: slow_divergence(folded, 0, bins, 128) for bins in [*range(128, reached, 16), reached]}
    chosen = clip(seen, "entropy", signed=True)
    assert chosen.low == -chosen.high
    assert divergence(seen, chosen, signed=True) == pytest.approx(min(slow.values()), rel=1e-9, abs=1e-12)
    best = min(slow, key=lambda bins: slow[bins])
    assert abs(chosen.high - best * seen.width) <= seen.width


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_of_uint8_is_that_of_the_definition_and_never_worse_than_minmax(shape: str) -> None:
    seen = seen_in(drawn(shape, 2).astype(np.float32))
    chosen = clip(seen, "entropy", signed=False)
    first = BINS + round(chosen.low / seen.width)
    last = BINS + round(chosen.high / seen.width)
    if seen.low < chosen.low and chosen.high < seen.high:
        slow = slow_divergence(seen.counts.tolist(), first, last, 256)
        assert divergence(seen, chosen, signed=False) == pytest.approx(slow, rel=1e-9)
    assert seen.low <= chosen.low <= 0.0 <= chosen.high <= max(seen.high, 0.0) or shape == "constant"
    whole = Range(min(seen.low, 0.0), max(seen.high, 0.0))
    assert divergence(seen, chosen, signed=False) <= divergence(seen, whole, signed=False)


def test_entropy_clips_a_far_outlier() -> None:
    x = drawn("normal", 0, size=200_000)
    x[3] = 40
    assert clip(seen_in(x.astype(np.float32)), "entropy", signed=True).high < 10


def test_after_a_relu_every_range_begins_at_zero() -> None:
    seen = seen_in(drawn("one-sided", 0).astype(np.float32))
    for clipping in ("minmax", "percentile", "entropy", "mse"):
        limits = clip(seen, clipping, signed=False)
        assert limits.low == 0 < limits.high <= seen.high
        assert affine(limits)[1] == 0


def test_one_outlier_is_clipped_by_mse_and_kept_by_minmax() -> None:
    """n values at a step of T / 127 cost n (T / 127)² / 12, clipping 40 to T costs (40 - T)²: the sum is least at T."""
    x = drawn("normal", 0, size=200_000).astype(np.float32)
    x[7] = 40
    seen = seen_in(x)
    assert clip(seen, "minmax", signed=True).high == 40
    assert clip(seen, "mse", signed=True).high == pytest.approx(40 / (1 + 200_000 / (12 * 127**2)), rel=0.1)


@pytest.mark.parametrize("clipping", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("size", [0.0, 1e-44])
def test_a_tensor_that_is_always_about_zero_gets_some_usable_scale(clipping: str, size: float) -> None:
    seen = seen_in(np.full(6, size, np.float32))
    for signed in (True, False):
        limits = clip(seen, clipping, signed)  # type: ignore[arg-type]
        assert fake_quantized(np.zeros(3, np.float32), limits, signed).tolist() == [0, 0, 0]
