"""The normal law, and Student's by way of it: tails are kept to full precision, so that small p-values stay right.

Student's quantile is the normal one corrected in powers of 1 / freedom (Abramowitz and Stegun, Handbook of
Mathematical Functions, 26.7.5); at 95 % it is 0.03 % short at 4 degrees and right to six digits at 19.
"""

from math import erfc, sqrt
from statistics import NormalDist

_STANDARD = NormalDist()


def quantile(share: float) -> float:
    """Where a standard normal has this share below it, 0 < share < 1. Raises `ValueError` outside."""
    return _STANDARD.inv_cdf(share)


def below(z: float) -> float:
    """The share of a standard normal below z; exact far out to the left, where 1 - 1 would be."""
    return 0.5 * erfc(-z / sqrt(2))


def student(z: float, freedom: int) -> float:
    """The point of Student's law, `freedom` >= 1, with as much below it as a standard normal has below z."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** (power + 1) for power, term in enumerate(terms))


def beyond(confidence: float) -> float:
    """How many standard deviations a two-sided interval of this confidence reaches to either side.

    Raises `ValueError` for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
    return -quantile((1 - confidence) / 2)
