"""What a study leaves behind: a result for each cell, and the table that is made of them."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kd2edge.errors import UserError, first_line
from kd2edge.report.model import Number, Row
from kd2edge.report.spread import Spread
from kd2edge.schema import Recipe, Section


class Training(Section):
    """What training a cell's student took: images shown and seconds, all stages together, exports left out.

    `threads` it computed with, and the machine's `load` as it began: how many processes ran, on average over a minute.
    """

    images: int
    seconds: float
    threads: int
    load: float


class Result(Section):
    """What became of a cell: which it was, the recipe it was made by, and what was measured, latency left out.

    `fault` is what a training ended by that could not come to an end; `training` is not known of old results.
    """

    result: Literal[1] = 1
    created: str
    command: str
    row: str
    seed: int
    trial: int | None = None
    recipe: dict[str, Any]
    suite: str
    target: str
    device: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    training: Training | None = None
    fault: str | None = None

    def made_by(self) -> Recipe | None:
        """Its recipe, None where that is of an older schema."""
        try:
            return Recipe.model_validate(self.recipe)
        except ValidationError:
            return None

    def role(self, role: str) -> Row | None:
        return next((row for row in self.rows if row.role == role), None)

    def number(self, role: str, metric: str) -> Number | None:
        """A number of a role, where it is there and usable."""
        row = self.role(role)
        number = row.numbers.get(metric) if row else None
        return number if number is not None and number.usable else None


def read_result(path: Path) -> Result | None:
    """The result in a file, None where there is none. Raises `UserError` for a file that is something else."""
    try:
        return Result.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"{path} is no result of a study: {first_line(error)}.", "remove it, then run again") from error


class Found(Section):
    """What there is of a study: by row the results that count, and the seeds whose result is of other settings.

    `settings` are the chosen trials, `trials` is how many of all are done, `p50` is in ms by row and precision.
    """

    results: dict[str, tuple[Result, ...]]
    stale: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    trials: int = 0
    teacher: Result | None = None
    p50: dict[str, dict[str, float]] = Field(default_factory=dict)
    p50_conditions: str | None = None


class Line(Section):
    """A row of the table. `fp32` and `int8` are of the study's metric, over the seeds in `done`; `p50` is in ms.

    `also` holds, by the name and unit of a further metric, the spreads of FP32 and INT8; `minutes` a training took and
    `images_per_second` it came to are means over the seeds of which they are known.
    `gap_closed` is in %, `over` in pooled standard deviations from the row that all are held against.
    """

    row: str
    about: str
    settings: dict[str, Any] = Field(default_factory=dict)
    parameters: float | None = None
    macs: float | None = None
    p50: dict[str, float] = Field(default_factory=dict)
    fp32: Spread | None = None
    int8: Spread | None = None
    also: dict[str, tuple[Spread | None, Spread | None]] = Field(default_factory=dict)
    minutes: float | None = None
    images_per_second: float | None = None
    gap_closed: float | None = None
    over: float | None = None
    best: bool = False
    done: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    stale: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()


class Summary(Section):
    """The table: its lines, and beneath them how the numbers were come by and what is missing.

    `trials` is how many of the search's are done, and how many there are.
    """

    study: str
    about: str
    metric: str
    unit: str
    target: str
    against: str
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    teacher: Line | None
    conditions: tuple[str, ...]
    trials: tuple[int, int]
    missing: tuple[str, ...]
    command: str

    def line(self, row: str) -> Line:
        return next(line for line in self.lines if line.row == row)
