"""How sure a metric is whose pairs are not independent: bootstrapped over those that the pairs are made of.

Each metric is a function of how often every identity, subject or template counts (see `metrics`), drawn and
summed up by `stats.bootstrap`. The threshold of a TAR is found anew in every draw; one that is frozen stays.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kd2edge import stats
from kd2edge.data import Ints, PairList, Split, Templates
from kd2edge.edge.operating import far_of
from kd2edge.edge.session import Floats
from kd2edge.metrics import (
    Folds,
    IdentityRates,
    IdentityTar,
    PairWeights,
    WeightedRates,
    WeightedTar,
    cosines,
    distances,
    template_tars,
)
from kd2edge.metrics.listed import Doubles
from kd2edge.report.model import Number

LOST = 0.5  # of a tail may be draws without a value, for want of pairs: they may all belong beyond that end


@dataclass(frozen=True)
class Clustered:
    """A share, 0..1, by weights int64 [B, clusters] → float64 [B]; `of` says what the clusters are: "identities".

    Or the change of one, or a ratio of two.
    """

    statistic: Callable[[Ints], Doubles]
    clusters: int
    of: str
    kind: Literal["share", "change", "ratio"] = "share"

    def against(self, other: "Clustered", ratio: bool = False) -> "Clustered":
        """By how much it differs from another of the same clusters, or how many times as large it is."""
        ours, theirs = self.statistic, other.statistic
        if ratio:
            return Clustered(lambda weights: _ratio(ours(weights), theirs(weights)), self.clusters, self.of, "ratio")
        return Clustered(lambda weights: ours(weights) - theirs(weights), self.clusters, self.of, "change")

    def interval(self, confidence: float) -> tuple[stats.Interval | None, str]:
        """The interval, about the value itself in any case, and how it was found or why there is none.

        Where all draws are alike they only say that no cluster differs: another may, as often as Wilson's interval has
        it of so many clusters of which none did. A ratio then has no interval.
        """
        if self.clusters < 2:
            return None, f"no interval: {self.clusters} of {self.of} shows no spread"
        resamples = stats.enough(confidence)
        drawn = stats.bootstrap(self.statistic, self.clusters, resamples=resamples)
        how = f"{resamples:,} resamples of {self.clusters:,} {self.of}"
        lost = resamples - len(drawn.draws)
        if math.isnan(drawn.value) or lost > LOST * resamples * (1 - confidence) / 2:
            return None, f"no interval: too few of {how} have the pairs it takes"
        found = drawn.interval(confidence)
        if found is None:
            return None, f"no interval of {100 * confidence:.4g} %: too few draws of {how} lie beyond its ends"
        if found[0] == found[1]:
            return self._alike(drawn.value, confidence), f"{how}, all of them alike"
        return (min(found[0], drawn.value), max(found[1], drawn.value)), how

    def _alike(self, value: float, confidence: float) -> stats.Interval | None:
        _, reach = stats.share_interval(0.0, self.clusters, confidence)
        if self.kind == "share":
            return max(0.0, value - reach), min(1.0, value + reach)
        return None if self.kind == "ratio" else (value - reach, value + reach)


def within(number: Number, interval: stats.Interval | None, how: str) -> Number:
    """A number in % with the interval of its share, and how that was found for its note."""
    low, high = (None, None) if interval is None else (100 * interval[0], 100 * interval[1])
    return number.model_copy(update={"low": low, "high": high, "note": how})


def clustered(metric: str, outputs: Floats, split: Split, conditions: Mapping[str, Any]) -> Clustered | None:
    """A metric of float32 [N, D] embeddings by name; None for one that has no such form here.

    `conditions` are the row's, for the threshold of one that is frozen. Raises `UserError` as the metric itself does.
    """
    protocol, far = split.protocol, far_of(metric)
    if metric.startswith("tar@") and isinstance(protocol, Templates):
        return of_templates(outputs, protocol, far) if far else None
    if isinstance(protocol, PairList) and metric.startswith("pair_"):
        squared = distances(outputs, protocol.pairs)
        return listed(metric, squared, protocol, subjects_of(split), conditions.get("fp32_pair_threshold"))
    if isinstance(protocol, Templates) or not (protocol is None or split.classes):
        return None
    if metric.startswith("tar@"):
        return tar(outputs, split.labels, (far,)).get(far) if far else None
    threshold, (name, _, rest) = conditions.get("fp32_threshold"), metric.partition("_")
    if rest == "at_fp32_threshold" and name in ("far", "frr") and threshold is not None:
        return rates(IdentityRates(threshold, outputs, split.labels))[name]
    return None


def tar(embeddings: Floats, labels: Ints, fars: tuple[float, ...]) -> dict[float, Clustered]:
    """TAR over all pairs by FAR, of those that the impostors suffice for."""
    found = IdentityTar(embeddings, labels, fars)
    return {far: at(far, found, found.identities, "identities") for far in found.fars}


def rates(found: IdentityRates) -> dict[str, Clustered]:
    """`far` and `frr` over all pairs at a frozen threshold."""
    return {name: Clustered(getattr(found, name), found.identities, "identities") for name in ("far", "frr")}


def of_templates(embeddings: Floats, protocol: Templates, far: float) -> Clustered | None:
    found, resampled = template_tars(embeddings, protocol, (far,))
    return at(far, found, found.clusters, resampled) if found.fars else None


def subjects_of(split: Split) -> Ints | None:
    """The subjects int64 [P, 2] of listed pairs; None where it is not known who is who."""
    known = isinstance(split.protocol, PairList) and split.classes
    return split.labels[split.protocol.pairs] if known and isinstance(split.protocol, PairList) else None


def listed(
    metric: str, squared: Doubles, pairs: PairList, subjects: Ints | None, threshold: float | None = None
) -> Clustered | None:
    """A metric of listed pairs, of their squared distances float64 [P]; None without subjects int64 [P, 2]."""
    statistic = _of_pairs(metric, squared, pairs, threshold)
    if subjects is None or statistic is None:
        return None
    spread = PairWeights(subjects)

    def by_subject(weights: Ints) -> Doubles:
        return np.array([statistic(spread(drawn)) for drawn in weights], np.float64)

    return Clustered(by_subject, spread.people, "subjects")


def _of_pairs(
    metric: str, squared: Doubles, pairs: PairList, threshold: float | None
) -> Callable[[Doubles], float] | None:
    """A metric by the weights float64 [P] of pairs."""
    if metric == "pair_accuracy":
        folds = Folds(squared, pairs.same, pairs.folds, pairs.mode)
        return lambda weights: _mean(folds.accuracies(weights))
    far = far_of(metric)
    if metric.startswith("pair_tar@") and far:
        return WeightedTar(cosines(squared), pairs.same, far)
    if threshold is None:
        return None
    found = WeightedRates(threshold, cosines(squared), pairs.same)
    return {"pair_far_at_fp32_threshold": found.far, "pair_frr_at_fp32_threshold": found.frr}.get(metric)


def _mean(shares: Doubles) -> float:
    """Of the folds that have any weight in a resample."""
    known = shares[np.isfinite(shares)]
    return float(known.mean()) if len(known) else math.nan


def at(far: float, statistic: Callable[[float, Ints], Doubles], clusters: int, of: str) -> Clustered:
    """A metric of a FAR and weights, at this one."""
    return Clustered(lambda weights: statistic(far, weights), clusters, of)


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> Doubles:
    shares: Doubles = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares
