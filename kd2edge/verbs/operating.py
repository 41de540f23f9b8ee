"""The operating threshold of a run, kept in the manifests of what ships: the cosine at which its FP32 was measured.

A bench writes it beside what is there; what is made of FP32 later inherits it.
"""

from collections.abc import Sequence
from typing import Any

from kd2edge.artifact import Artifact, manifest_path, signature_path
from kd2edge.edge.operating import operating
from kd2edge.files import write_atomic
from kd2edge.report.model import Report, Row

KEY = "operating"  # in `details` of a manifest


def keep(items: Sequence[tuple[str, Artifact]], report: Report) -> None:
    """Write FP32's threshold, and how it was found, into the manifests of the run's FP32, FP16 and INT8.

    Nothing is written where FP32 has none (it classifies, or impostors are too few), nor beside a faulty file, nor into
    a manifest that is signed: it would not be what was signed any more.
    """
    fp32 = report.row("fp32")
    found = None if fp32 is None or fp32.faults else _found(fp32, report)
    if found is None:
        return
    for role, item in items:
        row = report.row(role)
        sound = row is not None and not row.faults and bool(row.provider)
        if role in ("fp32", "fp16", "int8") and sound and not signature_path(item.path).exists():
            details = {**item.manifest.details, KEY: found}
            manifest = item.manifest.model_copy(update={"details": details})
            write_atomic(manifest_path(item.path), manifest.model_dump_json(indent=1).encode())


def kept(model: Artifact) -> dict[str, Any]:
    """Of a model's `details`, the threshold that was found with it: what is made of it is deployed with that."""
    return {key: value for key, value in model.manifest.details.items() if key == KEY}


def _found(row: Row, report: Report) -> dict[str, Any] | None:
    points = operating(row.conditions)
    point = points.all_pairs or points.listed
    if point is None:
        return None
    return {
        "threshold": point.threshold,
        "far": point.far,
        "pairs": "all" if points.all_pairs else "listed",
        "flip": points.flip,
        "split": report.suite.split,
        "data": row.conditions["data"],
        "target": report.target,
        "fp32": row.sha256,
    }
