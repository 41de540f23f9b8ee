"""The operating point of a verification model: the cosine that FP32 is deployed with, found at a FAR by its scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPERATING_FAR = 1e-3
LARGEST = 2.0  # beyond any cosine, also one whose rounding took it above 1


def power(far: float) -> str:
    """A FAR as it is written in the names of metrics: "1e-3"."""
    return f"1e{round(math.log10(far))}"


def far_of(metric: str) -> float | None:
    """The FAR in (0, 1] that a metric names behind its "@"; None where it names none."""
    try:
        far = float(metric.partition("@")[2])
    except ValueError:
        return None
    return far if 0 < far <= 1 else None


@dataclass(frozen=True)
class Point:
    """A cosine threshold, and the FAR ("1e-3") at which it was found."""

    far: str
    threshold: float


@dataclass(frozen=True)
class Operating:
    """FP32's points: over all pairs of the images and over listed pairs, as far as either was measured.

    `flip` says whether embeddings were summed with their mirrors'; `subgroups` are FP32's shares by column and value.
    """

    all_pairs: Point | None
    listed: Point | None
    flip: bool = False
    subgroups: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


def operating(conditions: Mapping[str, Any]) -> Operating:
    """The points that a measured row states in its conditions."""
    return Operating(
        _point(conditions.get("thresholds", {})),
        _point(conditions.get("pair_thresholds", {})),
        conditions.get("flip", False),
        conditions.get("subgroups", {}),
    )


def stored(details: Mapping[str, Any]) -> Operating | None:
    """The point that a manifest's `details` keep for deployment; it is one threshold, whichever pairs it meets.

    None where they keep none, or what others wrote there is no cosine.
    """
    kept = details.get("operating")
    value = kept.get("threshold") if isinstance(kept, dict) else None
    if not isinstance(kept, dict) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        return None
    point = Point(str(kept.get("far", power(OPERATING_FAR))), float(value))
    return Operating(point, point, bool(kept.get("flip", False)))


def _point(thresholds: Mapping[str, float | None]) -> Point | None:
    """At `OPERATING_FAR` where the impostors suffice for it, else at the least FAR above for which they do."""
    known = {far: value for far, value in thresholds.items() if value is not None and float(far) >= OPERATING_FAR}
    far = min(known, key=float, default=None)
    return None if far is None else Point(far, known[far])
