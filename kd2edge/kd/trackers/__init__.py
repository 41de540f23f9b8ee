"""Who else is told a training's figures, beside the run's own log. A seam of three calls; rank 0 alone speaks.

Every other file of this folder is one tracker: a class `Told` that is made from the log's folder, the run's name and
its parameters. A tracker that fails is let go with one sentence: nobody's training stops for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol

from kd2edge.errors import MissingExtra, first_line
from kd2edge.schema import Recipe

Say = Callable[[str], None]


class Tracker(Protocol):
    """Takes figures by stage and step, where `step` counts the steps of the stage that are done."""

    def rewind(self, stage: str, step: int) -> None:
        """So many steps of the stage are done: what was told of later ones will be told anew."""

    def tell(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name, once so many steps of the stage are done; never twice for one step and name."""

    def close(self, finished: bool = True) -> None:
        """Nothing more will be told; `finished` says whether because all is done. Nothing is kept open."""


class Several:
    """Tells several, and none any more that has failed once."""

    def __init__(self, trackers: Mapping[str, Tracker], say: Say) -> None:
        self._trackers, self._say = dict(trackers), say

    def rewind(self, stage: str, step: int) -> None:
        self._each(lambda one: one.rewind(stage, step))

    def tell(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        self._each(lambda one: one.tell(stage, step, figures))

    def close(self, finished: bool = True) -> None:
        self._each(lambda one: one.close(finished))
        self._trackers = {}

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, one in list(self._trackers.items()):
            try:
                call(one)
            except Exception as error:  # of a library, a store or a disk: whichever, the training is worth more
                self._trackers.pop(name, None)
                with suppress(Exception):
                    one.close(finished=False)
                self._say(f"{name} is told no more of this training: {first_line(error)}.")


NONE: Tracker = Several({}, lambda sentence: None)


class Under:
    """One tracker for several trainers, whose stages may have the same names: each under a name of its own."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker = name, tracker

    def rewind(self, stage: str, step: int) -> None:
        self._tracker.rewind(self._stage(stage), step)

    def tell(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        self._tracker.tell(self._stage(stage), step, figures)

    def close(self, finished: bool = True) -> None:
        self._tracker.close(finished)

    def _stage(self, stage: str) -> str:
        return stage if stage == self._name else f"{self._name}/{stage}"


def open_tracker(
    names: Sequence[str], folder: Path, run_name: str, say: Say, parameters: Mapping[str, object] | None = None
) -> Tracker:
    """The trackers of a recipe's `track`, whose own files lie in `folder`, the run's `log`.

    `say` is given one sentence for one that cannot be had. Raises `MissingExtra` where MLflow is asked for and missing;
    TensorBoard, which is told by default, is then done without.
    """
    made: dict[str, Tracker] = {}
    for name in names:
        try:
            require((name,))
            made[name] = import_module(f"{__name__}.{name}").Told(folder, run_name, parameters or {})
        except MissingExtra as missing:
            if name != "tensorboard":
                raise
            say(f"{missing.message[:-1]}: the run's log has its figures all the same.")
        except Exception as error:
            say(f"{name} is told nothing of this training: {first_line(error)}.")
    return Several(made, say)


def require(names: Sequence[str]) -> None:
    """Raise `MissingExtra` for a tracker whose package is not installed."""
    for name in names:
        import_module(f"{__name__}.{name}").require()


@contextmanager
def telling(recipe: Recipe, run: Path, say: Say, first: bool) -> Iterator[Tracker]:
    """A run's trackers until the block ends; nobody where this process is not the first of several."""
    if not first:
        yield NONE
        return
    tracker = open_tracker(recipe.track, run / "log", run.name, say, recipe.model_dump(mode="json"))
    try:
        yield tracker
    except BaseException:
        tracker.close(finished=False)
        raise
    tracker.close()
