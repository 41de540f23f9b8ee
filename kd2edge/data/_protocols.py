"""How a face test set wants to be judged, where that is not by all pairs of its labels: its lists, as arrays."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PairList:
    """Listed pairs, judged fold by fold: LFW, CFP-FP, AgeDB.

    `pairs` int64 [P, 2] are positions in the split, `same` bool [P] says which are genuine; consecutive P / `folds`
    pairs are a fold. `mode` is how a fold's threshold is chosen on the others (see `metrics/folds.py`). With `flip` an
    image's embedding is the sum of its own and its mirror's, as insightface has it. `subgroups` holds further int64 [P]
    columns by name, with the names of their values in `subgroup_names`.
    """

    pairs: Ints
    same: Bools
    folds: int = 10
    flip: bool = False
    mode: Literal["exact", "insightface"] = "exact"
    subgroups: dict[str, Ints] = field(default_factory=dict)
    subgroup_names: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Templates:
    """Templates of images, compared by a list of pairs (1:1) and by galleries and probes (1:N): IJB-B, IJB-C.

    `template` and `media` int64 [N] are those of each image, `faceness` float32 [N] its detector's score. `pairs` int64
    [P, 2] hold template identifiers, `same` bool [P] says which are genuine. `galleries` and `probes` are, for 1:N,
    by name, int64 [T, 2] of template identifier and subject. `flip` as for `PairList`.
    """

    template: Ints
    media: Ints
    faceness: Floats
    pairs: Ints
    same: Bools
    galleries: dict[str, Ints] = field(default_factory=dict)
    probes: dict[str, Ints] = field(default_factory=dict)
    flip: bool = True


Protocol = PairList | Templates
