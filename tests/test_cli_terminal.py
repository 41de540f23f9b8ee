"""The bar of a terminal moves ten times a second however short the steps are, and ends on the last step's figures."""

import io
import time

import pytest
from rich.console import Console
from rich.progress import Progress

from kd2edge.cli.terminal import Terminal


def told(terminal: Terminal) -> str:
    file = terminal.people.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def terminal(live: bool) -> Terminal:
    made = Terminal(as_json=False)
    made.people = Console(file=io.StringIO(), force_terminal=live, width=120, highlight=False)
    return made


@pytest.mark.parametrize(("step_seconds", "moves"), [(0.0101, 101), (0.0501, 501), (3.0, 1000)])
def test_a_bar_is_moved_ten_times_a_second_and_for_the_last_step(
    monkeypatch: pytest.MonkeyPatch, step_seconds: float, moves: int
) -> None:
    now = 1000.0
    seen: list[object] = []
    update = Progress.update

    def moved(bars: Progress, *given: object, **fields: object) -> None:
        seen.append(fields["completed"])
        update(bars, *given, **fields)  # type: ignore[arg-type]

    made = terminal(live=True)
    monkeypatch.setattr(Progress, "update", moved)
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now)
        made.start("student", 1000)
        for step in range(1000):
            now += step_seconds
            made.advance(1, epoch="1/1", loss=step / 8, images_per_second=2000.0)
    assert len(seen) == pytest.approx(moves, abs=2)
    assert seen[-1] == 1000
    assert "epoch 1/1, loss 124.9, 2000 img/s" in told(made)


def test_figures_of_before_stand_until_there_are_others() -> None:
    made = terminal(live=False)
    made.start("student", 3)
    made.advance(1, loss=0.5)
    made.advance(1)
    made.close()
    assert told(made).splitlines() == ["student: 3 steps", "student: 2/3 loss 0.5"]
