"""One role on its way through the bench: prepared, run in worker processes, told as a row. Its first fault ends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd2edge.artifact import Artifact
from kd2edge.data import Split
from kd2edge.edge import accuracy, measure, subgroups
from kd2edge.edge.drift import drift
from kd2edge.edge.launch import run_job
from kd2edge.edge.operating import Operating, operating
from kd2edge.edge.session import Backend, Floats
from kd2edge.edge.worker import Answer, Job
from kd2edge.errors import UserError
from kd2edge.files import sha256
from kd2edge.report.model import Number, Row
from kd2edge.schema import Latency, Target

IMAGES = "images.npy"


@dataclass
class Trial:
    """An artefact and what is known of it so far. `room` is the bench's folder, which holds the images as `IMAGES`.

    `rounds` are latencies in nanoseconds, int64 [n], one array for each process.
    """

    role: str
    artifact: Artifact
    target: Target
    room: Path
    model: Path = Path()
    faults: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    outputs: Floats | None = None
    rounds: list[npt.NDArray[np.int64]] = field(default_factory=list)
    numbers: dict[str, Number] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

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
            engine = self.room / f"{self.role}.engine"
            self.model = backend.build(file, self.target, engine) if manifest.kind == "onnx" else file
            size = self.model.stat().st_size / 2**20
            self.numbers["size"] = Number(value=size, unit="MiB", better="lower")
        except UserError as error:
            self.faults.append(error.message)

    def infer(self, flip: bool = False) -> None:
        """Compute the outputs over all images, with `flip` summed with those of their mirrors."""
        outputs = self.room / "outputs.npy"
        if self._ran(outputs=outputs, flip=flip):
            self.outputs = np.load(outputs)

    def time(self, latency: Latency) -> None:
        """One round of latency."""
        samples = self.room / "samples.npy"
        if self._ran(latency=latency, samples=samples):
            self.rounds.append(np.load(samples))

    def summarize(self, batch: int) -> None:
        """Pool the rounds into numbers."""
        if self.faults:
            return
        numbers, conditions = measure.summary(self.rounds, batch)
        timing = self.answers[-len(self.rounds) :]
        peak = max(answer.peak_memory_mib for answer in timing)
        self.numbers |= numbers | {"peak_memory": Number(value=peak, unit="MiB", n=len(timing), better="lower")}
        self.conditions |= conditions | {"warmups": [answer.warmup for answer in timing]}

    def score(self, split: Split) -> None:
        """The metrics of the outputs, as far as there are any."""
        if self.outputs is None:
            return
        try:
            numbers, conditions = accuracy.score(self.outputs, split, self.output)
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
            self.numbers |= accuracy.agreement(self.outputs, reference.outputs, self.output)
        except UserError as error:
            self.faults.append(error.message)
            return
        self.drift(operating(reference.conditions), split)

    def drift(self, frozen: Operating, split: Split) -> None:
        """FAR and FRR at FP32's thresholds, and how its subgroups fare there against FP32's; nothing for logits."""
        if self.outputs is None or self.output == "logits" or self.faults:
            return
        numbers, conditions = drift(self.outputs, split, frozen)
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
            conditions={**conditions, **self.conditions},
            faults=tuple(self.faults),
        )

    def _ran(self, **wanted: Any) -> bool:
        """Do a job; its fault becomes the trial's, and so does a provider that changed between two processes."""
        if self.faults:
            return False
        answer = run_job(self._job(**wanted))
        if answer.fault:
            self.faults.append(answer.fault)
            return False
        self.answers.append(answer)
        if answer.provider != self.answers[0].provider:
            self.faults.append(f"it ran on {self.answers[0].provider} first and on {answer.provider} later")
        return not self.faults

    def _job(self, **wanted: Any) -> Job:
        answer = self.room / "answer.json"
        answer.unlink(missing_ok=True)
        return Job.model_validate(
            {
                "model": self.model,
                "backend": self.target.backend,
                "target": self.target,
                "images": self.room / IMAGES,
                "preprocessing": self.artifact.manifest.preprocessing,
                "answer": answer,
                **wanted,
            }
        )
