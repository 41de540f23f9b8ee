"""Read and write ONNX files: every fault of a file is told in one sentence, and a half-written file never appears.

Written models stay within opset 13 to 20 and IR 10: per-channel Q/DQ begins at opset 13, and TensorRT 10.3, which
JetPack 6 keeps for ever, reads no newer.
"""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, numpy_helper

from kd2edge.errors import UserError, first_line
from kd2edge.files import write_atomic
from kd2edge.graph.topology import name_nodes, opset
from kd2edge.onnx_file import require_safe

OLDEST_READ, OLDEST_WRITTEN, NEWEST = 7, 13, 20
RAISED_TO = 17
NEWEST_IR = 10


def load_model(path: Path | str) -> ModelProto:
    """The checked model in the file `path`, raised to opset 17 if its own is older than 13.

    Raises `UserError` if the file is missing, truncated, not ONNX, invalid, or outside opset 7 to 20, and for what
    `require_safe` refuses: bombs, and weights outside the file's own folder.
    """
    path = Path(path)
    model = _parse(path)
    version = opset(model)
    if not OLDEST_READ <= version <= NEWEST:
        raise UserError(
            f"{path} uses ONNX opset {version}; opset {OLDEST_READ} to {NEWEST} can be read.",
            f"export it again with opset {RAISED_TO}",
        )
    _modernise(model)
    if version < OLDEST_WRITTEN:
        model = _raise_opset(model, path)
    _check(model, path)
    name_nodes(model)
    return model


def save_model(model: ModelProto, path: Path | str) -> None:
    """Write `model` to `path` at once: a reader sees the old file or the whole new one.

    Raises `UserError` if the opset or IR is outside what TensorRT 10.3 reads, or the file cannot be written.
    """
    path = Path(path)
    if not OLDEST_WRITTEN <= opset(model) <= NEWEST or model.ir_version > NEWEST_IR:
        raise UserError(f"A model with opset {opset(model)} and IR {model.ir_version} is not written to {path}.")
    write_atomic(path, model.SerializeToString())


def _parse(path: Path) -> ModelProto:
    require_safe(path)
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
        _require_text(model)
        onnx.load_external_data_for_model(model, str(path.parent))
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise UserError(
            f"{path} cannot be read as ONNX: {first_line(error)}.", "it is damaged or no ONNX file"
        ) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise UserError(f"{path} holds no ONNX graph.", "it is damaged or no ONNX file")
    return model


def _require_text(message: Message) -> None:
    """Raise ValueError for a name that is not UTF-8: protobuf hands it on as bytes, or fails once it is read."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                _require_text(inner)
        elif field.type == field.TYPE_STRING:
            for text in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    raise ValueError(f"{field.full_name} is no UTF-8 text")


def _modernise(model: ModelProto) -> None:
    """IR 3 lists initializers among the inputs; since IR 4 the inputs are those a caller feeds."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in initializers]
    del model.graph.input[:]
    model.graph.input.extend(fed)
    model.ir_version = min(max(model.ir_version, 9 if opset(model) >= 19 else 8), NEWEST_IR)


def _raise_opset(model: ModelProto, path: Path) -> ModelProto:
    try:
        raised = onnx.version_converter.convert_version(model, RAISED_TO)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be raised from opset {opset(model)} to {RAISED_TO}: {first_line(error)}.",
            f"export it again with opset {RAISED_TO}",
        ) from error
    return raised


def _check(model: ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"{path} is not a valid ONNX model: {first_line(error)}.") from error
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UserError(f"{path} keeps weights in a file beside it that is not there.")
    for tensor in model.graph.initializer:
        try:
            numpy_helper.to_array(tensor)  # whose bytes the checker does not count
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} holds a damaged tensor, {tensor.name!r}: {first_line(error)}.") from error
