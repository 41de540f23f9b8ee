"""Run a model in ONNX Runtime on the CPU: the oracle every other runtime is compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from kd2edge.errors import UserError, first_line
from kd2edge.onnx_file import openable

ERRORS_ONLY = 3


# It rewrites a float16 bias into int32 at a scale that underflows in float16 (onnxruntime 1.31: cosine 0.98 where the
# graph as written gives 1.00). The graphs made here need no such help.
DISABLED = ("WeightBiasQuantization",)


def session(model: ModelProto | Path | str, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU. Raises `UserError` if the runtime refuses the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the bytes or the name say
    source = model.SerializeToString() if isinstance(model, ModelProto) else openable(Path(model))
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(DISABLED)
        )
    except Exception as error:  # the runtime raises a dozen private classes
        subject = "The model" if isinstance(model, ModelProto) else str(model)
        raise UserError(f"{subject} cannot be loaded by ONNX Runtime: {first_line(error)}") from error


def run_onnx(model: ModelProto | Path | str, x: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """First output for the images `x` [N, C, H, W]; a model of a fixed batch gets them in groups of that size.

    Raises `UserError` if the runtime refuses the model or the images do not fill the last group.
    """
    opened = session(model, threads)
    return run(opened, x, [opened.get_outputs()[0].name])[0]


def run(opened: Any, x: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[Any]]:
    """The named outputs of an open session for `x` [N, C, H, W], in groups if the session's batch is fixed.

    Raises `UserError` if the images do not fill the last group, or the runtime fails on them.
    """
    given = opened.get_inputs()[0]
    batch = given.shape[0] if isinstance(given.shape[0], int) else max(len(x), 1)
    if len(x) % batch:
        raise UserError(f"{len(x)} images cannot be run in groups of {batch}, the model's fixed batch.")
    try:
        groups = [opened.run(list(outputs), {given.name: x[i : i + batch]}) for i in range(0, max(len(x), 1), batch)]
    except Exception as error:  # the runtime raises a dozen private classes
        raise UserError(f"The model cannot be run by ONNX Runtime: {first_line(error)}.") from error
    return [np.concatenate(parts) for parts in zip(*groups, strict=True)]
