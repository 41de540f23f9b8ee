"""The binomial law for any number of trials: the last term by logarithms, the others by their ratio to it.

Terms fall as exp(-j^2 / 2 n p) j steps below k <= n p (Chernoff), so that some ten sqrt(n p) of them are all there is.
"""

from math import exp, lgamma, log, log1p, sqrt

import numpy as np


def pmf(k: int, n: int, p: float) -> float:
    """P(X = k), X binomial(n, p), 0 <= k <= n, 0 < p < 1; 0.0 where it is less than any float."""
    choose = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(choose + k * log(p) + (n - k) * log1p(-p))


def cdf(k: int, n: int, p: float) -> float:
    """P(X <= k), X binomial(n, p), 0 < p < 1; small values are as exact as large ones."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    if k > n * p:
        return max(0.0, 1.0 - _lower(n - k - 1, n, 1 - p))
    return _lower(k, n, p)


def _lower(k: int, n: int, p: float) -> float:
    step = np.arange(min(k, int(10 * sqrt(n * p)) + 30))
    ratios = (k - step) / (n - k + step + 1) * ((1 - p) / p)
    return pmf(k, n, p) * (1.0 + float(np.cumprod(ratios).sum()))
