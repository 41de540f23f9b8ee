"""Means over images of several columns at once, with intervals: the same images are drawn for all of them.

A bootstrap knows only what was seen, and where no image differs it has no width at all. So imaginary images are drawn
along: two that are right and two that are wrong with a share (Agresti and Coull, The American Statistician 52(2),
1998), one won and one lost with a difference (Bonett and Price, Journal of Educational and Behavioral Statistics 37(4),
2012). They make of 10 images that are all right no certainty, and of 2,000 no difference.
"""

import numpy as np
import numpy.typing as npt

from kd2edge import stats

OF_SHARES = (0.0, 0.0, 100.0, 100.0)
OF_CHANGES = (-100.0, 100.0)

Doubles = npt.NDArray[np.float64]


def drawn(columns: Doubles, confidence: float) -> Doubles:
    """Means float64 [R, M] of float64 [N, M] columns over images drawn with replacement, N >= 2, as often as needed."""
    rows = len(columns)
    return np.concatenate([weights @ columns for weights in stats.resampled(rows, stats.enough(confidence))]) / rows


def intervals(columns: Doubles, imaginary: tuple[float, ...], confidence: float) -> list[stats.Interval | None]:
    """For each of float64 [N, M] columns, in percent, an interval of its mean, which holds the mean itself.

    None where hardly any draw lies beyond its ends.
    """
    extended = np.concatenate([columns, np.repeat(np.array(imaginary)[:, None], columns.shape[1], axis=1)])
    draws, means = np.sort(drawn(extended, confidence), axis=0), columns.mean(axis=0)
    found = []
    for mean, values in zip(means.tolist(), draws.T, strict=True):
        interval = stats.Bootstrap(mean, values, freedom=len(extended) - 1).interval(confidence)
        found.append(None if interval is None else (min(mean, interval[0]), max(mean, interval[1])))
    return found
