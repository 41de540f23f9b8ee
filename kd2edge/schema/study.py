"""Study: one YAML of `benchmarks/studies/`."""

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from kd2edge.schema.section import Plugin, Section

Overrides = dict[str, Any]  # dotted key of a recipe → value


class Search(Section):
    """How settings are chosen: a row's trials, one run each, judged by the study's metric on a suite's split.

    `set` goes on top of the study's own, for trials alone: what keeps the split that they are judged on untrained on.
    """

    set: Overrides = Field(default_factory=dict)
    suite: str = "selection"
    seed: int = Field(0, ge=0)


class StudyRow(Section):
    """A row: a whole method section and further settings, of which `trials` are alternatives to choose one from.

    `baseline` is the row that trains the same student without a teacher; `target`, by default the study's, is what the
    row's INT8 is made for.
    """

    about: str
    method: Plugin
    set: Overrides = Field(default_factory=dict)
    trials: tuple[Overrides, ...] = ()
    baseline: str = "plain"
    target: str | None = None


class Study(Section):
    """One YAML of `benchmarks/studies/`: rows times seeds, each a run of a recipe with changes, in one table.

    Rows are held `against` one of them, in FP32; where `judged` is int8, by their INT8. `also` names further metrics,
    told in a table of their own; nothing is chosen by them.
    """

    about: str
    recipe: str
    set: Overrides = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    metric: str
    also: tuple[str, ...] = ()
    suite: str = "study"
    target: str = "onnx-cpu"
    against: str = "kd"
    judged: Literal["fp32", "int8"] = "fp32"
    rows: dict[str, StudyRow]
    search: Search | None = Field(None, validate_default=True)

    @field_validator("seeds")
    @classmethod
    def _told_apart(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len({*seeds}) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds are different from each other, and none is negative")
        return seeds

    @field_validator("rows")
    @classmethod
    def _named_and_complete(cls, rows: dict[str, StudyRow], info: ValidationInfo) -> dict[str, StudyRow]:
        faults = [f"{name!r} is no name for a row" for name in rows if not _is_row_name(name)]
        against = info.data.get("against", "kd")
        if against not in rows:
            faults.append(f"there is no row {against!r}, and all are held against it")
        strays = [(name, row.baseline) for name, row in rows.items() if row.baseline not in rows]
        faults += [f"the baseline of {name}, {baseline!r}, is no row" for name, baseline in strays]
        if faults:
            raise ValueError("; ".join(faults))
        return rows

    @field_validator("search")
    @classmethod
    def _alike_for_every_row(cls, search: Search | None, info: ValidationInfo) -> Search | None:
        counts = {name: len(row.trials) for name, row in info.data.get("rows", {}).items()}
        if search is None and any(counts.values()):
            raise ValueError("rows have trials, and nothing says how they are judged")
        if search is not None and counts and len({*counts.values()} | {0}) != 2:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"every row needs the same number of trials, at least one: {told}")
        return search


def _is_row_name(name: str) -> bool:
    """Whether a name is safe as a folder's, and none that a study's results use themselves."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) is not None and name not in ("search", "teacher")
