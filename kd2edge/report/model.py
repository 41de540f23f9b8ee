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
    """A measured value; `value: null` with a `note` says why there is none.

    `low`..`high` is an interval of the report's `confidence`.
    """

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


class Comparison(Section):
    """By how much one metric of a row differs from that of the row `versus`, measured on the same samples.

    A `change` is the row's value less the other's, in the metric's unit, a `ratio` the row's over the other's.
    `low`..`high` is an interval of the report's `confidence` that knows the samples to be the same; there is none where
    `n` of them (images, subjects, stretches of time) are too few. `how` names the method and what it counted.
    """

    metric: str
    versus: str
    kind: Literal["change", "ratio"]
    value: float
    low: float | None = None
    high: float | None = None
    n: int
    how: str


class Regression(Section):
    """One case in which the row `role` is wrong where the row `versus` is right.

    `images` are one or, for a pair, two PNG as base64; `said` tells what each made of them.
    """

    role: str
    versus: str
    images: tuple[str, ...]
    said: str


class Row(Section):
    """One artefact under one configuration. `faults` are reasons why none of its numbers may pass a gate.

    `traces` are series to be drawn, never judged: of latency, the ROC, classes, clocks.
    """

    role: str
    file: str
    sha256: str
    precision: Precision
    provider: str
    numbers: dict[str, Number]
    conditions: dict[str, Any] = Field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    traces: dict[str, Any] = Field(default_factory=dict)
    faults: tuple[str, ...] = ()


class Report(Section):
    """All rows of one `bench`, with the suite they were measured by and the machine they were measured on.

    `confidence` is that of every interval in it.
    """

    report: Literal[1] = 1
    created: str
    command: str
    target: str
    device: dict[str, Any]
    versions: dict[str, str]
    suite_name: str
    suite: Suite
    confidence: float = 0.95
    rows: tuple[Row, ...]
    regressions: tuple[Regression, ...] = ()

    def row(self, role: str) -> Row | None:
        return next((row for row in self.rows if row.role == role), None)


class Finding(Section):
    """What one rule said: `ship`, `hold`, `undecided`, or `advice` which never decides.

    `low`..`high` is the interval it rests on, where there is one, and `how` says what it was made of. Where it leaves
    the rule undecided, about `more` samples would let the verdict `towards` fall; None if none would.
    """

    rule: Rule
    says: Literal["ship", "hold", "undecided", "advice"]
    reason: str
    value: float | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    more: int | None = None
    towards: Literal["ship", "hold"] | None = None
    how: str | None = None


class Verdict(Section):
    """The gate's answer: ship only if every rule says so; `recommend` names the row to ship.

    `errors` says in a sentence how often it errs, all rules together; `differences` are the conditions that changed
    since the baseline, a line each.
    """

    verdict: Literal["ship", "hold", "undecided"]
    findings: tuple[Finding, ...]
    recommend: str | None = None
    because: str | None = None
    errors: str | None = None
    differences: tuple[str, ...] = ()


def write_json(document: Section, path: Path) -> Path:
    return write_atomic(path, document.model_dump_json(indent=1).encode())


def read_report(path: Path) -> Report:
    """Read a report. Raises `UserError` when the file is missing, or is no report."""
    try:
        return Report.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"There is no report {path}.", "kd2edge bench writes one") from None
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise UserError(f"{path} is not a kd2edge report: {first_line(error)}.") from error
