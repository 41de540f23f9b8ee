"""What measured samples say, and how surely: percentiles, differences, ratios, verdicts, and how many more it
takes.
"""

from kd2edge.stats.discordant import McNemar, mcnemar
from kd2edge.stats.early_stopping import early_stopping_estimate, early_stopping_minimum
from kd2edge.stats.multiple import holm, simultaneous
from kd2edge.stats.percentiles import Interval, Samples, median, percentile, percentile_interval
from kd2edge.stats.proportions import drop_below, drop_interval, drop_score, share_interval
from kd2edge.stats.ratio import in_stretches, percentile_change, percentile_ratio
from kd2edge.stats.resampling import RESAMPLES, Bootstrap, bootstrap, enough, one_by_one, resampled
from kd2edge.stats.sample_size import (
    POWER,
    detectable_change,
    detectable_drop,
    detectable_percentile,
    drop_samples,
    interval_samples,
    percentile_samples,
)
from kd2edge.stats.unpaired import unpaired_change, unpaired_ratio
from kd2edge.stats.verdict import Decision, Direction, Says, decide, decision

__all__ = [
    "POWER",
    "RESAMPLES",
    "Bootstrap",
    "Decision",
    "Direction",
    "Interval",
    "McNemar",
    "Samples",
    "Says",
    "bootstrap",
    "decide",
    "decision",
    "detectable_change",
    "detectable_drop",
    "detectable_percentile",
    "drop_below",
    "drop_interval",
    "drop_samples",
    "drop_score",
    "early_stopping_estimate",
    "early_stopping_minimum",
    "enough",
    "holm",
    "in_stretches",
    "interval_samples",
    "mcnemar",
    "median",
    "one_by_one",
    "percentile",
    "percentile_change",
    "percentile_interval",
    "percentile_ratio",
    "percentile_samples",
    "resampled",
    "share_interval",
    "simultaneous",
    "unpaired_change",
    "unpaired_ratio",
]
