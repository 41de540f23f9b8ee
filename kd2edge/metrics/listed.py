"""How far apart the images of listed pairs are: squared L2 distances of unit embeddings, all in float64.

Insightface sums the squares of differences in float64, and a distance may lie on a point of its grid of thresholds, so
that float32 would decide such pairs otherwise. A cosine is 1 - distance / 2, in the same order by definition.
"""

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BLOCK = 4096  # pairs at a time: 16 MB for embeddings of 512


def distances(embeddings: Floats, pairs: Ints) -> Doubles:
    """Squared distances float64 [P], 0 to 4, of the pairs int64 [P, 2] of [N, D] embeddings, brought to unit length.

    Raises `UserError` if an embedding is NaN, infinite or zero.
    """
    exact = embeddings.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    faulty = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(faulty):
        raise UserError(
            f"{len(faulty)} of {len(norms)} embeddings are NaN, infinite or zero, the first at row {faulty[0]}.",
            "a model that returns such embeddings cannot be judged: look at its precision and its inputs",
        )
    exact /= norms[:, None]
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        one, other = pairs[start : start + BLOCK].T
        found[start : start + BLOCK] = np.sum(np.square(exact[one] - exact[other]), 1)
    return found


def cosines(squared: Doubles) -> Doubles:
    """Cosines float64 [P] of squared distances of unit vectors."""
    return 1 - squared / 2
