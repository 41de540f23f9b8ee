"""The log of a training: one JSON line per epoch, in a file that outlives the process."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd2edge.files import append, write_atomic
from kd2edge.kd.trackers import Tracker


def figures(line: Mapping[str, Any]) -> dict[str, float]:
    """What a tracker is told of a line of the log."""
    numbers = {name: float(value) for name, value in line.items() if isinstance(value, int | float)}
    rate = numbers.pop("images") / max(numbers.pop("seconds"), 1e-3)
    return {**numbers, "images_per_second": rate}


def take_over(log: Path, stage: str, lines: list[dict[str, Any]], tracker: Tracker, steps: int) -> None:
    """Enter the lines of a stage that another run has trained, in epochs of so many steps, as this run's own."""
    keep_log(log, stage, 0)
    lines = [{**line, "stage": stage} for line in lines]
    append(log, "".join(json.dumps(line) + "\n" for line in lines))
    tracker.rewind(stage, 0)
    for line in lines:
        tracker.tell(stage, line["epoch"] * steps, figures(line))


def keep_log(log: Path, stage: str, epochs: int) -> None:
    """Drop a stage's lines beyond so many epochs, which will be trained again, and a last one that a kill has torn."""
    kept = [line for line in log_lines(log) if line["stage"] != stage or line["epoch"] <= epochs]
    write_atomic(log, "".join(json.dumps(line) + "\n" for line in kept).encode())


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a training log, without a last one that a kill has torn."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
