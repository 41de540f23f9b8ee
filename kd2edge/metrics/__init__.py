"""The one definition of each metric, in numpy, for training, bench and gate alike."""

from kd2edge.metrics.classification import predictions, topk
from kd2edge.metrics.oneshot import OneShot, episodes, one_shot
from kd2edge.metrics.verification import FARS, Rates, Verification, rates_at, verify, verify_pairs

__all__ = [
    "FARS",
    "OneShot",
    "Rates",
    "Verification",
    "episodes",
    "one_shot",
    "predictions",
    "rates_at",
    "topk",
    "verify",
    "verify_pairs",
]
