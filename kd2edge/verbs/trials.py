"""Choices of groups made into files and measured on a back end: accuracy, and time in turns with FP32's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

from onnx import ModelProto

from kd2edge.edge.paired import time_in_turns
from kd2edge.edge.session import Backend, Floats, Session
from kd2edge.errors import UserError
from kd2edge.graph.alone import quantize_alone
from kd2edge.graph.load import save_model
from kd2edge.schema import Latency
from kd2edge.schema.search import Choice, Point, Score, Timing
from kd2edge.verbs.journal import Journal, Unlisted, of_the_disk
from kd2edge.verbs.subject import Subject

FP32 = Choice()
LATENCY = Latency(batch=1, warmup_ms=100, seconds=1.2, min_samples=144)
TO_TIME = 32  # images that latency goes round on


class Trials:
    """Measures graphs of a subject, each once and for ever (see `Journal`); `room` is a folder for files in between.

    Raises `UserError` where the back end cannot run here.
    """

    def __init__(
        self, subject: Subject, backend: Backend, journal: Journal, room: Path, latency: Latency = LATENCY
    ) -> None:
        fault = backend.available()
        if fault:
            raise UserError(fault)
        self._subject, self._backend, self._journal, self._latency = subject, backend, journal, latency
        self._room = room
        self._made: tuple[Choice, Path] | None = None

    def measure(self, choice: Choice) -> Point:
        """Accuracy and time; a graph that cannot be made, or that the back end refuses, is a point with that fault.

        Faults of FP32, without which nothing is measured, are raised and never put on record.
        """
        try:
            return Point(choice=choice, score=self.score(choice), timing=self.time(choice))
        except UserError as error:
            if choice == FP32 or isinstance(error, Unlisted) or of_the_disk(error):
                raise
            return Point(choice=choice, fault=error.message)

    def score(self, choice: Choice) -> Score:
        return self._journal.once("score", self._about(choice), Score, lambda: self._scored(self._file(choice)))

    def time(self, choice: Choice) -> Timing:
        about = {**self._about(choice), "latency": self._latency.model_dump()}
        return self._journal.once("timing", about, Timing, lambda: self._timed(choice))

    def alone(self, layers: Sequence[str]) -> Score:
        """Accuracy with INT8 in layers that the policy keeps in float, and in no other."""
        return self._journal.once("alone", {"int8": sorted(layers)}, Score, lambda: self._scored(self._forced(layers)))

    def _about(self, choice: Choice) -> dict[str, object]:
        """A choice by its layers: names of groups are for people."""
        layers = [layer for name in choice.int8 for layer in self._subject.groups[name]]
        return {"int8": sorted(layers), "rest": choice.rest}

    def _scored(self, file: Path) -> Score:
        judge = self._subject.judge
        if file == self._fp32:
            with _of_fp32():
                return judge.score(self._reference, self._reference)
        with self._open(file) as session:
            return judge.score(judge.outputs(session, self._subject.target.batch.max), self._reference)

    def _timed(self, choice: Choice) -> Timing:
        images = next(iter(self._subject.judge.batches(max(TO_TIME, self._latency.batch))))
        blamed = _of_fp32() if choice == FP32 else nullcontext()
        with blamed, self._opened_fp32() as reference, self._open(self._file(choice)) as session:
            taken = time_in_turns(session, reference, images, self._latency)
        p50, low, high, n = taken.p50
        ratio, least, most = (1.0, 1.0, 1.0) if choice == FP32 else taken.ratio
        return Timing(p50=p50, low=low, high=high, n=n, ratio=ratio, ratio_low=least, ratio_high=most)

    @cached_property
    def _fp32(self) -> Path:
        with _of_fp32():
            return self._backend.build(self._subject.model.path, self._subject.target, self._room / "fp32.engine")

    @cached_property
    def _reference(self) -> Floats:
        with self._opened_fp32() as session, _of_fp32():
            return self._subject.judge.outputs(session, self._subject.target.batch.max)

    def _opened_fp32(self) -> Session:
        with _of_fp32():
            return self._backend.open(self._fp32, self._subject.target)

    def _file(self, choice: Choice) -> Path:
        """What the back end opens for a choice; the last one made is remembered, as it is scored and then timed."""
        if choice == FP32:
            return self._fp32
        if self._made is None or self._made[0] != choice:
            self._made = choice, self._built(lambda: self._subject.graph(choice))
        return self._made[1]

    def _forced(self, layers: Sequence[str]) -> Path:
        self._made = None
        return self._built(lambda: quantize_alone(self._subject.calibrated, layers))

    def _built(self, make: Callable[[], ModelProto]) -> Path:
        path = self._room / "candidate.onnx"
        save_model(make(), path)
        return self._backend.build(path, self._subject.target, self._room / "candidate.engine")

    @contextmanager
    def _open(self, file: Path) -> Iterator[Session]:
        with self._backend.open(file, self._subject.target) as session:
            yield session


@contextmanager
def _of_fp32() -> Iterator[None]:
    """A fault of FP32's is not that of the choice it is compared with, and may be gone the next time."""
    try:
        yield
    except UserError as error:
        raise Unlisted(error.message, error.hint) from error
