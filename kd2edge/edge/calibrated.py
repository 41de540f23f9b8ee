"""The numbers of a classifier's calibration, with intervals by resampling its images."""

import numpy as np

from kd2edge import stats
from kd2edge.data import Ints
from kd2edge.edge.image_means import drawn
from kd2edge.edge.session import Floats
from kd2edge.metrics.calibration import BINS, Forecasts, equal_mass, equal_width, forecasts, reliability
from kd2edge.report.model import Number

ENOUGH = 100  # images; of fewer that all look alike a bootstrap would make a certainty


def calibrated(logits: Floats, labels: Ints, confidence: float = 0.95) -> dict[str, Number]:
    """`ece` in %, `brier` and `nll` of float32 [N, C] logits; the lower, the better. Raises `UserError` as `forecasts`.

    The error's draws lie above it as it lies above the truth, by the noise of the bins. So its interval is the basic
    one (Davison and Hinkley, Bootstrap Methods and their Application, section 5.2), which turns the draws round. Near
    no error at all they lie less far above: where the noise alone, the draws' distance from what was seen, makes an
    error as large, the interval begins at 0. All are made longer where they do not hold the value itself, and there
    are none of fewer than `ENOUGH` images.
    """
    made = forecasts(logits, labels)
    bins = equal_width(made.confidence)
    error, alike = (100 * reliability(made, given).error for given in (bins, equal_mass(made.confidence)))
    errors, briers, nlls, noise = _intervals(made, bins, confidence)
    turned = None
    if errors is not None and noise is not None:
        turned = (0.0 if error <= noise[1] else max(0.0, 2 * error - errors[1]), 2 * error - errors[0])
    note = f"{BINS} bins of equal width; {alike:.2f} % by bins of equal mass"
    return {
        "ece": _number(error, "%", turned, len(labels), note),
        "brier": _number(float(made.brier.mean()), "", briers, len(labels)),
        "nll": _number(float(made.nll.mean()), "nats", nlls, len(labels)),
    }


def _intervals(made: Forecasts, bins: Ints, confidence: float) -> list[stats.Interval | None]:
    """Of the error in %, the Brier score, the likelihood, and the error that noise alone makes, of the same draws."""
    n = len(bins)
    if n < ENOUGH:
        return [None, None, None, None]
    gaps = np.zeros((n, BINS))
    gaps[np.arange(n), bins] = made.right - made.confidence
    means = drawn(np.column_stack([gaps, made.brier, made.nll]), confidence)
    errors, noise = (100 * np.abs(means[:, :BINS] - middle).sum(axis=1) for middle in (0.0, gaps.mean(axis=0)))
    draws = (errors, means[:, BINS], means[:, BINS + 1], noise)
    return [stats.Bootstrap(float(of.mean()), np.sort(of), freedom=n - 1).interval(confidence) for of in draws]


def _number(value: float, unit: str, interval: stats.Interval | None, n: int, note: str | None = None) -> Number:
    low, high = (min(value, interval[0]), max(value, interval[1])) if interval else (None, None)
    return Number(value=value, unit=unit, n=n, low=low, high=high, better="lower", note=note)
