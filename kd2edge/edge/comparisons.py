"""By how much two rows of one bench differ, from the samples that both were measured on.

Each is compared as its samples are: images one by one (Tango's score interval, with McNemar's test), pairs by those who
are on them (`clustered`), timings by stretches of time (`latencies`). What has no such samples is not compared here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kd2edge import stats
from kd2edge.data import Split
from kd2edge.edge import latencies, staged
from kd2edge.edge.clustered import clustered
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.metrics import among
from kd2edge.report.model import Comparison, Number
from kd2edge.schema import Suite

Kind = Literal["change", "ratio"]
Found = tuple[stats.Interval | None, int, str]  # the interval, how many samples of what it knows, how it was found

ALWAYS: tuple[tuple[str, Kind], ...] = (("top1", "change"), ("latency_p50", "ratio"))
THRESHOLDS = ("fp32_threshold", "fp32_pair_threshold")
TOPS = {"top1": 1, "top5": 5}


@dataclass(frozen=True)
class Measured:
    """What a bench has of one row: `outputs` float32 [N, D], `rounds` of latencies in ns, int64 [n] each.

    `stages` are those of a device of its own, int64 [n, 5] each (see `staged`).
    """

    numbers: Mapping[str, Number]
    output: str  # "logits" or "embedding"
    outputs: Floats | None = None
    rounds: Sequence[latencies.Nanoseconds] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[latencies.Nanoseconds] = ()


def comparisons(
    suite: Suite, rows: Mapping[str, Measured], split: Split, reference: str, confidence: float = 0.95
) -> dict[str, tuple[Comparison, ...]]:
    """By role, of all rows that are not at fault: what rules compare, and top-1 and median with the `reference` row.

    A drop or rise is a change, in points of a share. Metrics that have no samples, and those without a usable number,
    have no comparison; one of too few samples has no interval.
    """
    found: dict[str, list[Comparison]] = {role: [] for role in rows}
    for role, metric, versus, kind in dict.fromkeys(_asked(suite, rows, reference)):
        value = _value(metric, rows[role], rows[versus], kind)
        if value is None:
            continue
        try:
            made = _compared(metric, rows[role], rows[versus], kind, split, suite.latency.batch, confidence)
        except UserError:  # what cannot be judged has a number that says so
            continue
        if made is None:
            continue
        interval, n, how = made
        low, high = (min(interval[0], value), max(interval[1], value)) if interval else (None, None)
        fields = {"metric": metric, "versus": versus, "kind": kind, "value": value, "low": low, "high": high}
        found[role].append(Comparison.model_validate({**fields, "n": n, "how": how}))
    return {role: tuple(made) for role, made in found.items()}


def _asked(suite: Suite, rows: Mapping[str, Measured], reference: str) -> Iterator[tuple[str, str, str, Kind]]:
    for rule in suite.rules:
        if rule.of in rows and rule.versus in rows and rule.of != rule.versus:
            yield rule.of, rule.metric, str(rule.versus), "change" if rule.ratio_at_most is None else "ratio"
    for role in rows:
        if reference in rows and role != reference:
            yield from ((role, metric, reference, kind) for metric, kind in ALWAYS)


def _value(metric: str, ours: Measured, theirs: Measured, kind: Kind) -> float | None:
    """The difference or ratio of the two numbers; None unless both are there in one unit."""
    one, other = (row.numbers.get(metric) for row in (ours, theirs))
    if one is None or other is None or one.unit != other.unit:
        return None
    if one.value is None or other.value is None or not (one.usable and other.usable):
        return None
    if kind == "change":
        return one.value - other.value
    return one.value / other.value if other.value > 0 else None


def _compared(
    metric: str, ours: Measured, theirs: Measured, kind: Kind, split: Split, batch: int, confidence: float
) -> Found | None:
    if metric in TOPS and kind == "change":
        return _images(TOPS[metric], ours, theirs, split, confidence)
    one = staged.timed(metric, ours.stages) or (metric, ours.rounds)
    _, others = staged.timed(metric, theirs.stages) or (metric, theirs.rounds)
    timed = latencies.compared(*one, others, kind == "ratio", batch, confidence)
    return timed or _clusters(metric, ours, theirs, kind, split, confidence)


def _images(k: int, ours: Measured, theirs: Measured, split: Split, confidence: float) -> Found | None:
    """Of images, each right or wrong by either row."""
    if ours.outputs is None or theirs.outputs is None or "embedding" in (ours.output, theirs.output):
        return None
    right, before = (among(logits, split.labels, (k,))[k] for logits in (ours.outputs, theirs.outputs))
    lost, won, n = int((before & ~right).sum()), int((right & ~before).sum()), len(right)
    low, high = stats.drop_interval(lost, won, n, confidence)
    chance = stats.mcnemar(lost, won).mid_p
    how = f"Tango's score interval over {n:,} images: {lost:,} lost, {won:,} won; McNemar's mid-p is {chance:.2g}"
    return (-100 * high, -100 * low), n, how


def _clusters(
    metric: str, ours: Measured, theirs: Measured, kind: Kind, split: Split, confidence: float
) -> Found | None:
    """Of pairs, by weights of those who are on them, the same for both rows."""
    outputs, others = ours.outputs, theirs.outputs
    if outputs is None or others is None or "logits" in (ours.output, theirs.output):
        return None
    frozen = [[row.conditions.get(name) for name in THRESHOLDS] for row in (ours, theirs)]
    if metric.endswith("at_fp32_threshold") and frozen[0] != frozen[1]:
        return None
    one = clustered(metric, outputs, split, ours.conditions)
    other = clustered(metric, others, split, theirs.conditions)
    if one is None or other is None:
        return None
    interval, how = one.against(other, ratio=kind == "ratio").interval(confidence)
    scale = 100 if kind == "change" else 1
    return interval and (scale * interval[0], scale * interval[1]), one.clusters, how
