"""What trtexec says of a row's GPU times, where it is installed: a condition of the row, never its fault."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.artifact import read_verified
from kd2edge.edge import trtexec
from kd2edge.edge.staged import FIELDS
from kd2edge.edge.trial import Trial
from kd2edge.errors import UserError

COMPUTE, GRAPH = FIELDS.index("compute"), FIELDS.index("graph")


def ask(trial: Trial, batch: int) -> None:
    """Put `conditions["trtexec"]` (see `trtexec.crosscheck`) to a TensorRT row whose stages were timed.

    Times of captured graphs are compared where there are any, those of plain launches elsewhere.
    """
    preprocessing = trial.artifact.manifest.preprocessing
    if trial.target.backend != "tensorrt" or not trial.stages or preprocessing is None:
        return
    samples = np.concatenate(trial.stages)
    graph = bool(samples[:, GRAPH].any())
    ours = samples[samples[:, GRAPH] == graph, COMPUTE] / 1e6
    shape = (batch, preprocessing.channels, *preprocessing.size)
    told = _told(trial, shape, ours.tolist(), graph)
    if told is not None:
        trial.conditions["trtexec"] = told


def _told(trial: Trial, shape: Sequence[int], ours_ms: Sequence[float], graph: bool) -> dict[str, Any] | None:
    """It gets a copy of the bytes that were verified: an engine is a program, and its file may have been replaced."""
    if trtexec.find() is None:
        return None
    try:
        _, engine = read_verified(trial.jobs.model, trial.target.require_signature)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "engine"
            copy.write_bytes(engine)
            return trtexec.crosscheck(copy, shape, ours_ms, graph)
    except UserError as error:
        return {"fault": error.message}
    except OSError as error:
        return {"fault": f"there is no room for trtexec to work in: {error.strerror}"}
