"""Which group each listed pair belongs to: a CSV beside the list. Racial Faces in the Wild (1812.00194) has four."""

import csv
from pathlib import Path

import numpy as np

from kd2edge.data import Ints
from kd2edge.errors import UserError

MOST = 100  # values of a column: more are no groups, but something like names


def read_subgroups(path: Path, pairs: int) -> tuple[dict[str, Ints], dict[str, list[str]]]:
    """Columns by name, int64 [pairs], and the names of their values in alphabetical order.

    The first line names the columns; then there is one line a pair, in their order. Raises `UserError`, naming the
    line, for a file of another form or length.
    """
    header, *lines = _lines(path)
    if len(lines) != pairs:
        raise UserError(
            f"{path} has {len(lines):,} lines after its first for {pairs:,} pairs.",
            "the first line names the columns, then there is one line a pair, in their order",
        )
    if len(set(header)) < len(header) or not all(header):
        raise UserError(f"The first line of {path} does not name its columns, each once: {','.join(header)}")
    odd = [number for number, line in enumerate(lines, 2) if len(line) != len(header) or not all(line)]
    if odd:
        raise UserError(f"Line {odd[0]:,} of {path} has not one value for each of {', '.join(header)}.")
    columns = {name: numbered([line[i] for line in lines]) for i, name in enumerate(header)}
    for name, (values, _) in columns.items():
        if len(values) > MOST:
            raise UserError(f"The column {name} of {path} has {len(values):,} values: too many for groups.")
    return (
        {name: index for name, (_, index) in columns.items()},
        {name: values for name, (values, _) in columns.items()},
    )


def numbered(listed: list[str]) -> tuple[list[str], Ints]:
    """The distinct values in alphabetical order, and int64 [N], which of them each one is.

    An array of strings would take the longest one's room for each: one long line, and the memory is full.
    """
    values = sorted(set(listed))
    number = {value: place for place, value in enumerate(values)}
    return values, np.array([number[value] for value in listed], np.int64)


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [[value.strip() for value in line] for line in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The subgroups {path} cannot be read: {error}.") from None
    if not lines:
        raise UserError(f"The subgroups {path} are empty.", "the first line names the columns")
    return lines
