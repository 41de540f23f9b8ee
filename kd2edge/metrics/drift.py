"""What a threshold frozen elsewhere realises on listed pairs, and in each group of them.

A quantized model is deployed with the threshold that was found on the float one, and into galleries that it enrolled:
metrics that choose their threshold anew do not show how far scores have moved.
"""

from dataclasses import dataclass

import numpy as np

from kd2edge.metrics._cosine import Ints
from kd2edge.metrics.listed import Bools, Doubles


@dataclass(frozen=True)
class Accepted:
    """The shares of `genuine` and `impostor` pairs, so many of each, strictly above a threshold; NaN of none."""

    tar: float
    far: float
    genuine: int
    impostor: int


def accepted_at(threshold: float, cosines: Doubles, same: Bools) -> Accepted:
    """TAR and FAR of [P] cosines, genuine where bool [P] `same`, strictly above a threshold."""
    above, genuine, impostor = cosines > threshold, int(same.sum()), int((~same).sum())
    tar = float(above[same].mean()) if genuine else np.nan
    return Accepted(tar, float(above[~same].mean()) if impostor else np.nan, genuine, impostor)


def accepted_by_group(threshold: float, cosines: Doubles, same: Bools, group: Ints, groups: int) -> list[Accepted]:
    """As `accepted_at` for each group 0..`groups` - 1, at one threshold for all; `group` int64 [P] is each pair's."""
    return [accepted_at(threshold, cosines[of], same[of]) for of in (group == number for number in range(groups))]
