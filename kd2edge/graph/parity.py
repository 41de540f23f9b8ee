"""The ladder of comparisons: an export that was not compared was not made.

Each precision has a level of agreement with the float reference below which the export, not the model, is at fault.
INT8's is only an alarm: whether an INT8 model is good enough is the gate's business.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx

__all__ = ["Level", "Parity", "compare", "require", "run_onnx"]

Level = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Parity:
    """Agreement of two outputs [N, ...], cosine and argmax taken image by image.

    `max_abs_relative` is the largest difference over the largest magnitude of the reference.
    """

    max_abs: float
    max_abs_relative: float
    cosine_min: float
    cosine_mean: float
    argmax_agreement: float


def compare(reference: NDArray[Any], candidate: NDArray[Any]) -> Parity:
    """Agreement of `candidate` with `reference`, both [N, ...]. Raises `UserError` for other shapes or no images."""
    if reference.shape != candidate.shape or reference.ndim < 2 or len(reference) == 0:
        raise UserError(f"Outputs of shape {list(reference.shape)} and {list(candidate.shape)} cannot be compared.")
    a = reference.reshape(len(reference), -1).astype(np.float64)
    b = candidate.reshape(len(candidate), -1).astype(np.float64)
    worst, size = float(np.abs(a - b).max()), float(np.abs(a).max())
    cosines = _cosines(a, b)
    return Parity(
        max_abs=worst,
        max_abs_relative=worst / size if size > 0 else (0.0 if worst == 0 else float("inf")),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        argmax_agreement=float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
    )


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows; two rows of zeros agree, one row of zeros does not."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)
    cosines: NDArray[np.float64] = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), same)
    return cosines


def require(parity: Parity, level: Level) -> None:
    """Raise `UserError` unless `parity` reaches `level`; a number that is not finite never does."""
    if level == "fp32":
        reached = parity.max_abs_relative <= 1e-4 and parity.cosine_min >= 0.99999
    elif level == "fp16":
        reached = parity.cosine_mean >= 0.999 and parity.cosine_min >= 0.99
    else:
        reached = parity.cosine_mean >= 0.9
    if not reached:
        raise UserError(
            f"The {level.upper()} model disagrees with its reference: largest difference "
            f"{parity.max_abs_relative:.2g} of the output's scale, cosine {parity.cosine_mean:.5f} on average and "
            f"{parity.cosine_min:.5f} at worst.",
            "the conversion is at fault, not the training: compare layer by layer",
        )
