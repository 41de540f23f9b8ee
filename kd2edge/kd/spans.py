"""Where a training's time goes: each moment belongs to the innermost span that is open, on one clock per stage.

On the processor the clock is the host's. On a GPU it is the GPU's own, by CUDA events between which nothing waits: what
a span is charged there is what the GPU spent, computing or idle, before it came to the next one; a host that runs ahead
costs nothing. The first step of a stage, in which kernels are chosen and nets compiled, is told apart.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from torch import nn

from kd2edge.kd import timers
from kd2edge.kd.advice import About, Profile, advice

__all__ = ["NAMES", "NONE", "About", "Profile", "Spans"]

NAMES = ("data", "augment", "teacher", "student", "loss", "backward", "optimizer", "validation", "saving", "waiting")
APART = "validation"  # whose nets' passes are its own, and no step's
ELSE = "else"
STEP = "optimizer"  # whose end is a step's
FOLD = 512  # marks that may be pending before those that have happened are added up


class Spans:
    """Measures the stages that are attached to it, one at a time."""

    def __init__(self) -> None:
        self._stages: list[_Stage] = []
        self._clock: _Clock | None = None
        self._of = {name: _Span(self, name) for name in NAMES}

    def of(self, name: str) -> AbstractContextManager[None]:
        """The time until the block ends is `name`'s, one of `NAMES`, but for what a span within it takes.

        Of "validation" it is all, whatever nets are asked in it.
        """
        return self._of[name]

    @contextmanager
    def _attached(self, frozen: Sequence[nn.Module], learner: nn.Module, about: About) -> Iterator[None]:
        stage = _Stage(about)
        self._stages.append(stage)
        undo = [back for module in frozen for back in _watch(module, self._of["teacher"])]
        undo += _watch(learner, self._of["student"])
        clock = self._clock = _Clock(stage, timers.of(about.device))
        try:
            yield
        finally:
            self._clock = None
            for back in reversed(undo):
                back()
            clock.stop()

    def attach(
        self, frozen: Sequence[nn.Module], learner: nn.Module, about: About | None = None, role: str = ""
    ) -> AbstractContextManager[None]:
        """Measure a stage until the block ends, the forward passes of its nets among its spans.

        `role` is the trainer's, whose stages may be called as another's are. Modules that are to be compiled have to be
        so already: they are timed from outside.
        """
        about = about or About()
        named = replace(about, name=f"{role}: {about.name}") if role not in ("", about.name) else about
        return self._attached(frozen, learner, named)

    def enter(self, name: str) -> None:
        if self._clock is not None:
            self._clock.enter(name)

    def leave(self) -> None:
        if self._clock is not None:
            self._clock.leave()

    def table(self) -> list[Profile]:
        """The stages that have made steps after their first."""
        return [stage.profile() for stage in self._stages if stage.steps]

    def advice(self) -> list[str]:
        """What to try, as far as the figures say so: sentences that name the recipe's keys."""
        return [text for stage in self._stages if stage.steps for text in advice(stage.about, stage.profile())]


class _Unmeasured(Spans):
    """Costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._nothing = nullcontext()

    def of(self, name: str) -> AbstractContextManager[None]:
        return self._nothing

    def attach(
        self, frozen: Sequence[nn.Module], learner: nn.Module, about: About | None = None, role: str = ""
    ) -> AbstractContextManager[None]:
        return self._nothing


class _Span:
    """Enters and leaves one name, any number of times."""

    def __init__(self, spans: Spans, name: str) -> None:
        self._spans, self._name = spans, name

    def __enter__(self) -> None:
        self._spans.enter(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spans.leave()


NONE: Spans = _Unmeasured()


@dataclass
class _Stage:
    """One stage's seconds by span, over `steps` steps after the first."""

    about: About
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*NAMES, ELSE), 0.0))
    steps: int = 0
    first: float | None = None

    def take(self, span: str, seconds: float, step: bool) -> None:
        """Charge a span; `step` says that a step is over with it."""
        self.seconds[span] += seconds
        if step and self.first is None:
            self.first, self.seconds = sum(self.seconds.values()), dict.fromkeys(self.seconds, 0.0)
        elif step:
            self.steps += 1

    def profile(self) -> Profile:
        total = sum(self.seconds.values())
        return Profile(
            stage=self.about.name,
            steps=self.steps,
            first_step_seconds=self.first or 0.0,
            images_per_second=self.about.batch * self.steps / total,
            ms={span: 1e3 * seconds / self.steps for span, seconds in self.seconds.items()},
            share={span: seconds / total for span, seconds in self.seconds.items()},
        )


class _Clock:
    """Charges a stage with the time between marks, each to the span that was innermost."""

    def __init__(self, stage: _Stage, timer: timers.Timer) -> None:
        self._stage, self._timer = stage, timer
        self._open: list[str] = []
        self._pending: deque[tuple[Any, str, bool]] = deque()
        self._last = timer.mark()

    def enter(self, name: str) -> None:
        name = APART if self._open[-1:] == [APART] else name
        if self._open[-1:] != [name]:
            self._until_now(step=False)
        self._open.append(name)

    def leave(self) -> None:
        if self._open[-2:-1] != self._open[-1:]:
            self._until_now(step=self._open[-1] == STEP)
        self._open.pop()

    def stop(self) -> None:
        self._until_now(step=False)
        self._timer.wait()
        self._fold()

    def _until_now(self, step: bool) -> None:
        self._pending.append((self._timer.mark(), self._open[-1] if self._open else ELSE, step))
        if len(self._pending) >= FOLD:
            self._fold()

    def _fold(self) -> None:
        """Add up what has happened; on a GPU what is still to come stays pending."""
        while self._pending and self._timer.happened(self._pending[0][0]):
            mark, name, step = self._pending.popleft()
            self._stage.take(name, self._timer.seconds(self._last, mark), step)
            self._last = mark


def _watch(module: nn.Module, span: _Span, depth: int = 2) -> list[Callable[[], None]]:
    """Be in a span during a module's calls, and its parts', which may be called by themselves; gives what undoes it."""
    if module._compiled_call_impl is not None:  # what is compiled would trace the clock along
        return [_timed(module, span)]
    before = module.register_forward_pre_hook(lambda *_: span.__enter__())
    after = module.register_forward_hook(lambda *_: span.__exit__(None, None, None), always_call=True)
    parts = module.children() if depth else ()
    return [before.remove, after.remove, *(back for part in parts for back in _watch(part, span, depth - 1))]


def _timed(module: nn.Module, span: _Span) -> Callable[[], None]:
    compiled: Any = module._compiled_call_impl

    def timed(*args: Any, **kwargs: Any) -> Any:
        with span:
            return compiled(*args, **kwargs)

    def undo() -> None:
        module._compiled_call_impl = compiled

    module._compiled_call_impl = timed
    return undo
