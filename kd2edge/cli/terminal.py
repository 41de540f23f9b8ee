"""What a person sees while a verb works, and what a program reads: with `--json` people are told on stderr."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

EVERY_SECONDS = 30.0  # between two lines about one stage where no bar can be drawn
MOVED_SECONDS = 0.1  # between two moves of a bar, each of which takes 50 µs of a step


RATE = "images_per_second"
Figures = Mapping[str, float | str]


class Terminal:
    """Implements `kd2edge.progress.Progress`: a bar on a terminal, now and then a line elsewhere.

    `resume` is the command that continues what an interruption would stop.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.resume: str | None = None
        self.people = Console(stderr=as_json, highlight=False)
        self._stage: Bar | Lines | None = None

    def start(self, what: str, total: int) -> None:
        self.close()
        self._stage = Bar(self.people, what, total) if self.people.is_terminal else Lines(self.people, what, total)

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        if self._stage is not None and self._stage.advance(steps, figures):
            self.close()

    def say(self, sentence: str) -> None:
        self.people.print(Text(sentence), soft_wrap=True)

    def show(self, *renderables: RenderableType) -> None:
        """Print tables and other renderables for people."""
        for renderable in renderables:
            self.people.print(renderable)

    def answer(self, document: Any) -> None:
        """With `--json`, print the one document on the last line of stdout."""
        self.close()
        if self.as_json:
            from pydantic_core import to_json

            print(to_json(document, inf_nan_mode="null").decode(), flush=True)

    def fail(self, message: str, hint: str | None, code: int) -> None:
        """Tell an error: to people on stderr, and with `--json` as the document."""
        self.close()
        told = Text(message, style="red")
        if hint:
            told.append(f"\n  hint: {hint}", style="not red default")
        Console(stderr=True, highlight=False).print(told, soft_wrap=True)
        self.answer({"error": message, "hint": hint, "exit": code})

    def close(self) -> None:
        """Take the bar away, so that what is printed next stands alone."""
        if self._stage is not None:
            self._stage.close()
            self._stage = None


class Bar:
    """A live bar with what is left in time, and the latest figures."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
            console=console,
            refresh_per_second=4,  # each takes 0.4 ms from what is shown
        )
        self._total, self._done, self._moved = total, 0, 0.0
        self._figures: Figures = {}
        self._task = self._bars.add_task(what, total=total, figures="")
        self._bars.start()

    def advance(self, steps: int, figures: Figures) -> bool:
        """Whether the stage is over."""
        self._done += steps
        self._figures = figures or self._figures
        now = time.monotonic()
        if self._done >= self._total or now - self._moved >= MOVED_SECONDS:
            self._moved = now
            self._bars.update(self._task, completed=self._done, figures=_told(self._figures))
        return self._done >= self._total

    def close(self) -> None:
        self._bars.stop()


class Lines:
    """For log files and pipes: a line when a stage begins, when it ends, and every half minute between."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console, self._what, self._total = console, what, total
        self._done, self._told = 0, time.monotonic()
        self._figures: Figures = {}
        self._line(f"{what}: {total} steps")

    def advance(self, steps: int, figures: Figures) -> bool:
        """Whether the stage is over."""
        self._done += steps
        self._figures = figures or self._figures
        now = time.monotonic()
        if self._done < self._total and now - self._told >= EVERY_SECONDS:
            self._told = now
            self._line(f"{self._what}: {self._done}/{self._total} {_told(self._figures)}")
        return self._done >= self._total

    def close(self) -> None:
        if self._done:
            self._line(f"{self._what}: {self._done}/{self._total} {_told(self._figures)}")

    def _line(self, text: str) -> None:
        self._console.print(Text(text.rstrip()), soft_wrap=True)


def _told(figures: Figures) -> str:
    """`epoch 3/30, loss 1.234, 1672 img/s`."""
    told = [f"{name} {_short(value)}" for name, value in figures.items() if name != RATE]
    return ", ".join(told + ([f"{_short(figures[RATE])} img/s"] if RATE in figures else []))


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
