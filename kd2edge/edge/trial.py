"""One role on its way through the bench: prepared, run in worker processes, told as a row. Its first fault ends it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kd2edge.artifact import Artifact
from kd2edge.data import Split
from kd2edge.edge import accuracy, measure, staged, subgroups
from kd2edge.edge.decoded import Decoded
from kd2edge.edge.drift import drift
from kd2edge.edge.jobs import OUTPUTS, SAMPLES, STAGES, Jobs
from kd2edge.edge.kept import Cell, Kept, is_full
from kd2edge.edge.operating import Operating, operating
from kd2edge.edge.ran_in import ran_in
from kd2edge.edge.session import Backend, Floats
from kd2edge.edge.worker import Answer
from kd2edge.errors import UserError
from kd2edge.files import sha256
from kd2edge.report.model import Comparison, Number, Row
from kd2edge.schema import Latency, Target


class Sampled(NamedTuple):
    ns: npt.NDArray[np.int64]
    answer: Answer
    stages: list[npt.NDArray[np.int64]]


@dataclass
class Trial:
    """An artefact and what is known of it so far. What its processes come to is `kept` as soon as they are done.

    `rounds` are latencies in nanoseconds, int64 [n], in the order they were taken, one array for each of the processes
    `timed`, and `stages` those of the device, int64 [n, 5], where it is one of its own (see `staged`). `traces` are
    series to be drawn.
    """

    role: str
    artifact: Artifact
    target: Target
    kept: Kept
    images: Decoded
    faults: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    outputs: Floats | None = None
    rounds: list[npt.NDArray[np.int64]] = field(default_factory=list)
    stages: list[npt.NDArray[np.int64]] = field(default_factory=list)
    timed: list[Cell] = field(default_factory=list)
    numbers: dict[str, Number] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    traces: dict[str, Any] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    backend: Backend | None = None
    confidence: float = 0.95  # of its intervals
    fars: tuple[float, ...] = ()  # at which the TAR over all pairs has one

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.role, self.artifact, self.target, self.kept)

    @property
    def output(self) -> str:
        """What the file returns, by its manifest: "logits" or "embedding"."""
        manifest = self.artifact.manifest
        return manifest.output or ("logits" if manifest.task == "classification" else "embedding")

    def prepare(self, backend: Backend) -> None:
        """Check the file against its manifest, and build an engine of it where the back end needs one."""
        file, manifest = self.artifact.path, self.artifact.manifest
        try:
            if sha256(file) != manifest.sha256:
                raise UserError(f"{file} is not the file its manifest describes: the sha256 differs.")
            if manifest.preprocessing is None:
                raise UserError(f"The manifest of {file} states no preprocessing.")
            self.backend = backend
            runs = self.jobs.prepare(backend)
            self.numbers["size"] = Number(value=runs.stat().st_size / 2**20, unit="MiB", better="lower")
            numbers, conditions = ran_in(runs)
            self.numbers |= numbers
            self.conditions |= conditions
        except UserError as error:
            if is_full(error):
                raise
            self.faults.append(error.message)

    def infer(self, flip: bool = False) -> None:
        """Compute the outputs over all images, with `flip` summed with those of their mirrors."""
        self.outputs = self.computed(self.images, flip)

    def computed(self, images: Decoded, flip: bool = False) -> Floats | None:
        """The outputs over any images, float32 [N, D]; None where the trial is at fault."""
        found = self._ran(images, outputs=OUTPUTS, flip=flip)
        return None if found is None else np.load(self.kept.file(found, OUTPUTS))

    def time(self, latency: Latency, turn: int, anew: bool = False) -> None:
        """One round of latency, by its number; `anew` also where one is kept."""
        found = self._ran(self.images, anew, **_round(latency, turn))
        if found is not None:
            self.rounds.append(np.load(self.kept.file(found, SAMPLES)))
            self.stages += self._stages(found)
            self.timed.append(found)

    def sitting(self, latency: Latency, turn: int) -> int | None:
        """The sitting in which a round was taken that is kept; None where none is."""
        found = self.jobs.find(self.images, _round(latency, turn))
        return None if found is None else found.sitting

    def sampled(self, jobs: Jobs | None = None, **asked: Any) -> Sampled | None:
        """Latencies in ns, int64 [n], of another timed job, its answer and its stages, if it was asked for them.

        By other `jobs`, if given; None where the trial is at fault.
        """
        found = self._ran(self.images, jobs=jobs, samples=SAMPLES, **asked)
        if found is None:
            return None
        return Sampled(np.load(self.kept.file(found, SAMPLES)), found.answer, self._stages(found))

    def of_batch(self, batch: int) -> Jobs | None:
        """As `Jobs.of_batch`; None too where the trial is at fault. Raises `UserError` where it cannot be built."""
        return None if self.faults or self.backend is None else self.jobs.of_batch(self.backend, batch)

    def summarize(self, batch: int) -> None:
        """Pool the rounds into numbers."""
        if self.faults:
            return
        numbers, conditions = measure.summary(self.rounds, batch, self.confidence)
        timing = [cell.answer for cell in self.timed]
        peak = max(answer.peak_memory_mib for answer in timing)
        self.numbers |= numbers | {"peak_memory": Number(value=peak, unit="MiB", n=len(timing), better="lower")}
        self.conditions |= conditions | {"warmups": [answer.warmup for answer in timing]}
        self.traces["latency_ms"] = measure.trace(self.rounds)
        if self.stages:
            self.device(batch, timing)

    def device(self, batch: int, timing: Sequence[Answer]) -> None:
        """What the stages of the rounds come to."""
        why = next((answer.no_graph for answer in timing if answer.no_graph), None)
        numbers, told = staged.summary(self.stages, batch, self.target.cuda_graph, why, self.confidence)
        self.numbers |= numbers
        self.conditions |= told

    def score(self, split: Split) -> None:
        """The metrics of the outputs, as far as there are any."""
        if self.outputs is None:
            return
        try:
            numbers, conditions = accuracy.score(self.outputs, split, self.output, self.confidence, self.fars)
        except UserError as error:
            self.faults.append(error.message)
            return
        self.numbers |= numbers
        self.conditions |= conditions

    def compare(self, reference: "Trial", split: Split) -> None:
        """How near a file of another precision comes to the FP32 one, and what it makes of that one's threshold."""
        precisions = {self.artifact.manifest.precision, reference.artifact.manifest.precision}
        if self.faults or reference.faults or self.outputs is None or reference.outputs is None:
            return
        if self is reference:
            self.drift(operating(self.conditions), split)
        if len(precisions) == 1:
            return
        try:
            self.numbers |= accuracy.agreement(self.outputs, reference.outputs, self.output, self.confidence)
        except UserError as error:
            self.faults.append(error.message)
            return
        self.drift(operating(reference.conditions), split)

    def drift(self, frozen: Operating, split: Split) -> None:
        """FAR and FRR at FP32's thresholds, and how its subgroups fare there against FP32's; nothing for logits."""
        if self.outputs is None or self.output == "logits" or self.faults:
            return
        numbers, conditions = drift(self.outputs, split, frozen, self.confidence)
        shares = conditions.get("subgroups_at_fp32_threshold")
        if shares and frozen.subgroups and self.conditions.get("subgroups") is not frozen.subgroups:
            drop, conditions["subgroup_changes"] = subgroups.changes(shares, frozen.subgroups)
            numbers |= drop
        self.numbers |= numbers
        self.conditions |= conditions

    def row(self, conditions: Mapping[str, Any], extra: Mapping[str, Number]) -> Row:
        manifest = self.artifact.manifest
        return Row(
            role=self.role,
            file=str(self.artifact.path),
            sha256=manifest.sha256,
            precision=manifest.precision,
            provider=self.answers[-1].provider if self.answers else "",
            numbers={**self.numbers, **extra},
            conditions={**conditions, **self.conditions, **self._resumed()},
            comparisons=self.comparisons,
            traces=self.traces,
            faults=tuple(self.faults),
        )

    def _resumed(self) -> dict[str, Any]:
        """When each round was taken, where not all that the bench rests on was measured in one sitting."""
        if self.kept.sittings < 2:
            return {}
        rounds = [{"sitting": cell.sitting, "at": cell.at} for cell in self.timed]
        return {"resumed": {"sittings": self.kept.sittings, "rounds": rounds}}

    def _stages(self, cell: Cell) -> list[npt.NDArray[np.int64]]:
        return [np.load(self.kept.file(cell, STAGES))] if STAGES.name in cell.files else []

    def _ran(self, images: Decoded, anew: bool = False, jobs: Jobs | None = None, **asked: Any) -> Cell | None:
        """A job done or found done (see `Jobs.done`); None where the trial is at fault.

        It is by the job's fault, and where the job did not run on what the first one ran on.
        """
        if self.faults:
            return None
        answer, cell = (jobs or self.jobs).done(images, asked, anew)
        if answer.fault:
            self.faults.append(answer.fault)
            return None
        self.answers.append(answer)
        if answer.provider != self.answers[0].provider:
            self.faults.append(f"it ran on {self.answers[0].provider} first and on {answer.provider} later")
        return None if self.faults else cell


def _round(latency: Latency, turn: int) -> dict[str, Any]:
    """What a round of latency is asked for."""
    return {"latency": latency, "samples": SAMPLES, "stages": STAGES, "turn": turn}
