"""What changed since the baseline beside the models: versions, device, protocol, and how each row was measured.

A timing that is worse than before may have any of them for its cause, so each is named. Of a row's conditions those
count that were set (no floats or lists, which were measured), and what was seen of the machine meanwhile.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kd2edge.edge.fitness import PROTOCOL
from kd2edge.report.model import Report, Row

SET = ("data", "pairs")  # of the conditions that hold others
SEEN = ("watch", "steal")
DIGEST = 12  # characters of a sha256


def differences(report: Report, baseline: Report) -> tuple[str, ...]:
    """A line for each condition that is not the same: `onnxruntime 1.30.0 → 1.31.1`; of the rows that both have."""
    ours, theirs = _settings(report), _settings(baseline)
    return (*_changes(ours, theirs), *_rows(report, baseline))


def _settings(report: Report) -> dict[str, Any]:
    """Everything about a report that concerns all its rows."""
    protocol = report.suite.model_dump(mode="json", include=PROTOCOL | {"split", "quick"})
    return {
        "target": report.target,
        **report.versions,
        **{key.replace("_", " "): value for key, value in report.device.items()},
        **_flat(protocol),
        "confidence": report.confidence,
    }


def _changes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} {_told(theirs.get(key))} → {_told(ours.get(key))}"
        for key in dict.fromkeys((*ours, *theirs))
        if ours.get(key) != theirs.get(key)
    ]


def _rows(report: Report, baseline: Report) -> Iterator[str]:
    """The changes of single rows by role, or without it where all rows have them."""
    pairs = [(row, other) for row in report.rows for other in baseline.rows if row.role == other.role]
    changed = {row.role: _changes(_of_row(row), _of_row(other)) for row, other in pairs}
    for line in dict.fromkeys(line for lines in changed.values() for line in lines):
        roles = [role for role, lines in changed.items() if line in lines]
        yield line if len(roles) == len(changed) else f"{', '.join(roles)}: {line}"


def _of_row(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {"provider": row.provider, "precision": row.precision}
    for key, value in row.conditions.items():
        if key in SEEN:
            seen = _flat(value) if isinstance(value, Mapping) else {key: value}
            told |= {name: one for name, one in seen.items() if name != "looks"}
        elif key in SET or not isinstance(value, Mapping):
            flat = _flat({key: value})
            told |= {name: one for name, one in flat.items() if not isinstance(one, float | list | tuple)}
    return told


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys of a mapping of mappings as words: `latency batch`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}".replace("_", " ")
        flat |= _flat(value, f"{name} ") if isinstance(value, Mapping) else {name: value}
    return flat


def _told(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(_told, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_told(item)}" for key, item in value.items())
    if isinstance(value, str) and len(value) == 64:
        return value[:DIGEST]
    return f"{value:g}" if isinstance(value, float) else str(value)
