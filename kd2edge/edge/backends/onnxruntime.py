"""ONNX Runtime on the CPU: nothing to build, runs wherever Python does."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime as ort
from typing_extensions import Self

from kd2edge.edge.session import Backend, Floats, readable
from kd2edge.errors import UserError, first_line
from kd2edge.onnx_file import openable
from kd2edge.schema import Target

CPU = "CPUExecutionProvider"
FLOAT32 = np.dtype(np.float32)

# It rewrites a float16 bias into int32 at a scale that underflows in float16 (onnxruntime 1.31: cosine 0.98 where the
# graph as written gives 1.00). What is measured is the graph as written.
DISABLED = ("WeightBiasQuantization",)


class OnnxRuntime(Backend):
    """Threads come from the target; the graph runs sequentially, one operator at a time."""

    name = "onnxruntime"

    def available(self) -> str | None:
        return None

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        return readable(onnx)

    def open(self, path: Path, target: Target) -> "OnnxRuntimeSession":
        options = ort.SessionOptions()
        options.intra_op_num_threads = target.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # what it says is raised as an error too: once is enough
        options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the bytes or the name say
        model = openable(readable(path), target.require_signature)
        try:
            session = ort.InferenceSession(model, options, providers=[CPU], disabled_optimizers=[*DISABLED])
        except Exception as error:
            raise UserError(
                f"ONNX Runtime cannot load {path}: {first_line(error)}", "the file is damaged, or is not ONNX"
            ) from error
        return OnnxRuntimeSession(session, path)


class OnnxRuntimeSession:
    """One float32 image input and one output, on the provider that was created, not the one hoped for."""

    def __init__(self, session: Any, path: Path) -> None:
        self.provider: str = session.get_providers()[0]
        if self.provider != CPU:
            raise UserError(f"ONNX Runtime opened {path} on {self.provider}, not on {CPU}.")
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(
                f"{path} has {len(inputs)} inputs and {len(outputs)} outputs.",
                "a model has one image input, one output",
            )
        self.versions: dict[str, str] = {"onnxruntime": ort.__version__}
        self._session = session
        self._input, self._expected = inputs[0].name, inputs[0].shape
        if inputs[0].type != "tensor(float)":
            raise UserError(f"{path} takes {inputs[0].type}, kd2edge feeds tensor(float).", "keep the input in float32")
        self.fixed_batch: int | None = self._expected[0] if isinstance(self._expected[0], int) else None
        self._outputs = [outputs[0].name]
        self._fitted: tuple[int, ...] = ()

    def infer(self, x: Floats) -> Floats:
        if x.shape != self._fitted:  # looked at once: what is timed is the runtime
            if not _fits(x.shape, self._expected):
                raise UserError(f"The model takes {_shape(self._expected)}, it was given {_shape(x.shape)}.")
            self._fitted = x.shape
        result: Floats = self._session.run(self._outputs, {self._input: x})[0]
        if result.ndim == 2 and result.dtype == FLOAT32:
            return result
        return result.reshape(len(x), -1).astype(np.float32, copy=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session


def _fits(given: tuple[int, ...], expected: list[int | str | None]) -> bool:
    sizes = zip(given, expected, strict=False)
    return len(given) == len(expected) and all(not isinstance(e, int) or g == e for g, e in sizes)


def _shape(shape: tuple[int, ...] | list[int | str | None]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
