"""What one tool is asked to do, and what it answers; a process of its own for each, so that nothing is shared."""

from pathlib import Path
from typing import Any

from pydantic import Field

from kd2edge.schema import Section


class Job(Section):
    """Quantize `fp32` with the images of `calibration` (float32 [N, C, H, W], .npy) into `out`, as `setting` says.

    `torch` builds the net as a module, for a tool that takes no ONNX file; null where that cannot be done.
    """

    fp32: Path
    calibration: Path
    out: Path
    output: str
    adapter: str
    setting: dict[str, Any] = Field(default_factory=dict)
    torch: dict[str, Any] | None = None


class Answer(Section):
    """What came of it. `missing` says what to install, `failed` in one sentence what went wrong."""

    missing: str | None = None
    failed: str | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)
