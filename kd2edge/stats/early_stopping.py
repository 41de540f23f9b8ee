"""When a run has enough samples to claim a percentile, and what it may claim: MLPerf LoadGen's early stopping.

A sample is over a latency L with probability at most 1 - q / 100 exactly if L is no lower than the q-th percentile. So
`over` samples of n above L rule out that L is too low where P(X <= over) <= 1 - confidence, X binomial(n, 1 - q /
100). LoadGen's single-stream and multi-stream estimate is the t-th slowest sample, which it counts among the t that
are over it: one more than the law of order statistics asks for, and why its minima are 64 for p90 and 662 for p99 and
not 44 and 459, as for a latency bound that no sample is over. Samples are taken for independent. (MLCommons, inference
rules, appendix on early stopping; mlcommons/inference, loadgen/early_stopping.cc and results.cc, for what it counts.)
"""

from bisect import bisect_left, bisect_right

from kd2edge.stats._binomial import cdf
from kd2edge.stats.percentiles import Samples, ordered

CONFIDENCE = 0.99


def early_stopping_minimum(q: float, over: int = 1, confidence: float = CONFIDENCE) -> int:
    """The fewest samples that support the q-th percentile when `over` of them are over the latency claimed.

    For a given bound (LoadGen's server) `over` counts the samples above it, for an estimate the sample that is the
    estimate too, so that 1 is its minimum. Raises `ValueError` if q, `over` or the confidence is out of range.
    """
    _check(q, confidence)
    if over < 0:
        raise ValueError(f"{over} samples cannot be over a latency")

    def supports(n: int) -> bool:
        return cdf(over, n, 1 - q / 100) <= 1 - confidence

    most = over + 1
    while not supports(most):
        most *= 2
    return bisect_left(range(most), True, lo=over, key=supports)


def early_stopping_estimate(samples: Samples, q: float, confidence: float = CONFIDENCE) -> float | None:
    """LoadGen's estimate of the q-th percentile: a sample that is no lower than it with more than this confidence.

    None where there are fewer samples than `early_stopping_minimum(q)`. Raises `ValueError` as `percentile` and
    `early_stopping_minimum` do.
    """
    _check(q, confidence)
    slowest_last = ordered(samples)
    n = len(slowest_last)
    supported = bisect_right(range(n), 1 - confidence, key=lambda over: cdf(over, n, 1 - q / 100)) - 1
    return float(slowest_last[n - supported]) if supported >= 1 else None


def _check(q: float, confidence: float) -> None:
    if not (0 < q < 100 and 0 < confidence < 1):
        raise ValueError(f"no early stopping for the percentile {q} at confidence {confidence}")
