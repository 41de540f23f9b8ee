"""In which precisions an engine's layers run, for its row: as the inspector told when the engine was built.

The manifest is written by whoever built the engine, so that nothing in it is taken for a count unless it is one.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kd2edge.artifact import has_manifest, read_manifest
from kd2edge.report.model import Number

METRIC = "int8_ran"
Told = tuple[dict[str, Number], dict[str, Any]]


class Summary(BaseModel):
    """Counts of `trt_layers.summary`, as far as they are judged; the rest of it is shown."""

    model_config = ConfigDict(extra="ignore", strict=True)

    int8_expected: int = Field(ge=0)
    int8_missing: list[str]
    int8_unknown: list[str]


def ran_in(file: Path) -> Told:
    """Numbers and conditions of the file that runs; none of an ONNX file, which has no layers of its own.

    `int8_ran` is the share, in %, of the quantized products (Conv, Gemm, MatMul) of which it is told that they run in
    INT8; null with the reason where the builder could not look. Raises `UserError` for a manifest that is damaged.
    """
    details = read_manifest(file)[0].details if has_manifest(file) else {}
    if "layers" not in details:
        return {}, {}
    found, why = details["layers"], str(details.get("layers_unknown") or "its layers were not looked at")
    if found is None:
        return {METRIC: _share(None, why)}, {"layers": {"unknown": why}}
    try:
        summary = Summary.model_validate(found)
    except ValidationError:
        return {METRIC: _share(None, "its manifest's counts of layers are none")}, {}
    if not summary.int8_expected:
        return {}, {"layers": found}
    proved = summary.int8_expected - len({*summary.int8_missing, *summary.int8_unknown})
    return {METRIC: _share(100 * max(proved, 0) / summary.int8_expected, None, summary.int8_expected)}, {
        "layers": found
    }


def _share(value: float | None, note: str | None, n: int | None = None) -> Number:
    return Number(value=value, unit="%", n=n, better="higher", note=note)
