"""Embeddings to unit length, so that a cosine is a dot product; shared by the metrics that compare embeddings."""

import numpy as np
import numpy.typing as npt

from kd2edge.errors import UserError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def unit(embeddings: Floats, labels: Ints) -> Floats:
    """Each row of [N, D] divided by its L2 norm, float32; norms are summed in float64.

    Raises `UserError` if an embedding is NaN, infinite or zero, or if there is not one label per embedding.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise UserError(f"Embeddings {embeddings.shape} and labels {labels.shape} should be [N, D] and [N].")
    norms = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
    faulty = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(faulty):
        raise UserError(
            f"{len(faulty)} of {len(norms)} embeddings are NaN, infinite or zero, the first at row {faulty[0]}.",
            "a model that returns such embeddings cannot be judged: look at its precision and its inputs",
        )
    return np.asarray(embeddings / norms[:, None], np.float32)
