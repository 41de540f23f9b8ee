"""The one definition of each metric, in numpy, for training, bench and gate alike."""

from kd2edge.metrics.classification import among, predictions, topk
from kd2edge.metrics.drift import Accepted, accepted_at, accepted_by_group
from kd2edge.metrics.folds import Folds, Mode, Val
from kd2edge.metrics.identification import FPIRS, RANKS, Identification, identify
from kd2edge.metrics.identities import IdentityRates, IdentityTar, pair_counts
from kd2edge.metrics.listed import cosines, distances
from kd2edge.metrics.oneshot import OneShot, episodes, one_shot
from kd2edge.metrics.roc import IJB_FARS, Roc, roc_at
from kd2edge.metrics.subjects import PairWeights, WeightedRates, WeightedTar
from kd2edge.metrics.templates import Pooling, TemplateResult, judge_templates, pair_scores, pool, template_tars
from kd2edge.metrics.verification import FARS, Rates, Verification, rates_at, verify, verify_pairs

__all__ = [
    "FARS",
    "FPIRS",
    "IJB_FARS",
    "RANKS",
    "Accepted",
    "Folds",
    "Identification",
    "IdentityRates",
    "IdentityTar",
    "Mode",
    "OneShot",
    "PairWeights",
    "Pooling",
    "Rates",
    "Roc",
    "TemplateResult",
    "Val",
    "Verification",
    "WeightedRates",
    "WeightedTar",
    "accepted_at",
    "accepted_by_group",
    "among",
    "cosines",
    "distances",
    "episodes",
    "identify",
    "judge_templates",
    "one_shot",
    "pair_counts",
    "pair_scores",
    "pool",
    "predictions",
    "rates_at",
    "roc_at",
    "template_tars",
    "topk",
    "verify",
    "verify_pairs",
]
