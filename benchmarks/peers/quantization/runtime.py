"""The runtime that every file meets: onnxruntime on one thread of the CPU, its own default optimizations on."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float32]
BATCH = 100
ERRORS_ONLY = 3


def session(model: Path) -> Any:
    """As a user of any of these tools would open its file; kd2edge's own back end turns one optimizer off."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def run(opened: Any, images: Floats) -> Floats:
    """The outputs float32 [N, D] of an open session for images float32 [N, C, H, W], in one go."""
    found = opened.run(None, {opened.get_inputs()[0].name: images})[0]
    return np.asarray(found, np.float32).reshape(len(images), -1)


def outputs(model: Path, images: Floats) -> Floats:
    """The outputs float32 [N, D] of a file, in batches."""
    opened = session(model)
    return np.concatenate([run(opened, np.array(images[i : i + BATCH])) for i in range(0, len(images), BATCH)])
