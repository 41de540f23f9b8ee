"""How many samples would decide, and what the least difference is that those at hand could show.

An interval lies wholly on one side of a bound with chance `power` if the truth is what was observed and n is such that
the distance is z_c + z_p standard errors, z_c the reach of the interval and z_p the normal quantile of the power. Half
of all repetitions decide where it is z_c alone: to say so many "would decide" would be wrong every second time.

Every number of samples is a total of the same kind as n counts (images, clusters, latencies), None where none would
do: the observed value lies on the bound, or so near that ten thousand times as many would not tell. All are estimates
from an observed effect, which is itself uncertain.
"""

from math import ceil, sqrt

import numpy as np

from kd2edge.stats._normal import beyond, quantile
from kd2edge.stats.percentiles import Interval, Samples, ordered, percentile
from kd2edge.stats.proportions import drop_score, null_variance

POWER = 0.8
HOPELESS = 10_000  # times as many samples
NEAREST = 1e-12  # between two shares: what is nearer is on the bound, and its square may vanish


def drop_samples(
    lost: int, won: int, n: int, margin: float, confidence: float = 0.95, power: float = POWER
) -> int | None:
    """Images at which `drop_interval` would lie on one side of the margin, were the true rates those observed.

    The score test's standard deviation on the bound, the observed one off it (Lachin, Statistics in Medicine 11(9),
    1992, for pairs). Raises `ValueError` as `drop_score` does, or for a power outside [0.5, 1).
    """
    drop_score(lost, won, n, margin)
    drop, reach, chance = (lost - won) / n, beyond(confidence), _chance(power)
    if abs(margin - drop) < NEAREST:
        return None
    on_bound = null_variance(lost, won, n, margin)
    observed = (lost + won) / n - drop**2
    return _times(n, reach * sqrt(on_bound / n) + chance * sqrt(max(0.0, observed) / n), abs(margin - drop))


def detectable_drop(lost: int, won: int, n: int, confidence: float = 0.95, power: float = POWER) -> float | None:
    """The least true drop, 0..1, that n images would tell from none with this power, at the observed discordance.

    Solved for the drop from the sample size of McNemar's test (Connor, Biometrics 43(1), 1987). Where that is more
    than are discordant, all that is discordant is taken for lost: some (z_c + z_p)^2 / n. None where images are too
    few for any drop. Raises `ValueError` as `drop_samples` does."""
    drop_score(lost, won, n, 0.0)
    reach, chance, discordant = beyond(confidence), _chance(power), (lost + won) / n
    curb = 1 + chance**2 / n
    drop = sqrt(discordant / n) * (reach + sqrt(max(0.0, reach**2 - curb * (reach**2 - chance**2)))) / curb
    if 0 < drop <= discordant:
        return drop
    drop = reach**2 / n
    for _ in range(100):
        drop = (reach + chance * sqrt(max(0.0, 1 - drop))) ** 2 / n
    return drop if drop < 1 else None


def percentile_samples(
    samples: Samples, q: float, bound: float, confidence: float = 0.95, power: float = POWER
) -> int | None:
    """Samples at which `percentile_interval` would lie on one side of the bound, were shares those observed.

    The percentile is below a bound where more than q % of the samples are: a test of one proportion. Raises
    `ValueError` as `percentile_interval` does, or for a power outside [0.5, 1).
    """
    rising, share = ordered(samples), _share(q)
    within = float(np.searchsorted(rising, bound, "right")) / len(rising)
    reach, chance = beyond(confidence), _chance(power)
    error = reach * sqrt(share * (1 - share)) + chance * sqrt(within * (1 - within))
    return _times(len(rising), error / sqrt(len(rising)), abs(within - share))


def detectable_percentile(samples: Samples, q: float, confidence: float = 0.95, power: float = POWER) -> float | None:
    """How far above the observed percentile, in the samples' unit, a bound must lie to be told from it with this
    power.

    The distance to the percentile so many ranks higher, about: None where there is no sample so high. Raises
    `ValueError` as `percentile_samples` does.
    """
    rising, share = ordered(samples), _share(q)
    farther = share + (beyond(confidence) + _chance(power)) * sqrt(share * (1 - share) / len(rising))
    if farther > 1:
        return None
    return float(rising[ceil(farther * len(rising)) - 1]) - percentile(rising, q)


def interval_samples(
    value: float, interval: Interval, bound: float, n: int, confidence: float = 0.95, power: float = POWER
) -> int | None:
    """Clusters, turns or samples at which an interval like this one of n would lie on one side of the bound.

    An approximation: that the interval shrinks about the value as 1 / sqrt(n), which holds for the bootstrap and for
    order statistics of many samples. n itself where it decides already. Raises `ValueError` for a confidence or power
    out of range, or n < 1.
    """
    if n < 1:
        raise ValueError(f"no interval comes of {n} samples")
    low, high = interval
    half = high - value if bound > value else value - low
    error = max(0.0, half) * (1 + _chance(power) / beyond(confidence))
    return n if not low <= bound <= high else _times(n, error, abs(bound - value))


def detectable_change(interval: Interval, confidence: float = 0.95, power: float = POWER) -> float:
    """The least true distance from a bound at which an interval as wide as this would clear it with this power."""
    return (interval[1] - interval[0]) / 2 * (1 + _chance(power) / beyond(confidence))


def _times(n: int, error: float, distance: float) -> int | None:
    if error >= distance * sqrt(HOPELESS):
        return None
    return max(1, ceil(n * (error / distance) ** 2 - 1e-9))


def _chance(power: float) -> float:
    if not 0.5 <= power < 1:
        raise ValueError(f"a power lies in [0.5, 1), not at {power}")
    return quantile(power)


def _share(q: float) -> float:
    if not 0 < q < 100:
        raise ValueError(f"no sample size for the percentile {q}")
    return q / 100
