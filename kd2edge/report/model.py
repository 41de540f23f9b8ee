"""What a benchmark says and what a gate answers. Every number carries its unit, its sample count and its interval."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kd2edge.errors import UserError, first_line
from kd2edge.files import write_atomic
from kd2edge.schema import Precision, Rule, Section, Suite


class Number(Section):
    """A measured value; `value: null` with a `note` says why there is none. `low`..`high` is a 95 % interval."""

    value: float | None
    unit: str
    n: int | None = None
    low: float | None = None
    high: float | None = None
    better: Literal["higher", "lower"] | None = None
    note: str | None = None

    @property
    def usable(self) -> bool:
        return self.value is not None and math.isfinite(self.value)


class Row(Section):
    """One artefact under one configuration. `faults` are reasons why none of its numbers may pass a gate."""

    role: str
    file: str
    sha256: str
    precision: Precision
    provider: str
    numbers: dict[str, Number]
    conditions: dict[str, Any] = Field(default_factory=dict)
    faults: tuple[str, ...] = ()


class Report(Section):
    """All rows of one `bench`, with the suite they were measured by and the machine they were measured on."""

    report: Literal[1] = 1
    created: str
    command: str
    target: str
    device: dict[str, Any]
    versions: dict[str, str]
    suite_name: str
    suite: Suite
    rows: tuple[Row, ...]

    def row(self, role: str) -> Row | None:
        return next((row for row in self.rows if row.role == role), None)


class Finding(Section):
    """What one rule said: `ship`, `hold`, `undecided`, or `advice` which never decides."""

    rule: Rule
    says: Literal["ship", "hold", "undecided", "advice"]
    reason: str
    value: float | None = None
    bound: float | None = None


class Verdict(Section):
    """The gate's answer: ship only if every rule says so; `recommend` names the row to ship."""

    verdict: Literal["ship", "hold", "undecided"]
    findings: tuple[Finding, ...]
    recommend: str | None = None
    because: str | None = None


def write_json(document: Section, path: Path) -> Path:
    return write_atomic(path, document.model_dump_json(indent=1).encode())


def read_report(path: Path) -> Report:
    """Read a report. Raises `UserError` when the file is missing, or is no report."""
    try:
        return Report.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"There is no report {path}.", "kd2edge bench writes one") from None
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"{path} is not a kd2edge report: {first_line(error)}.") from error
