"""A machine for tests of the bench: its processes take no time, tell the same whenever asked, and can be killed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.artifact import Artifact
from kd2edge.data import normalize
from kd2edge.edge import devices, jobs
from kd2edge.edge.bench import bench
from kd2edge.edge.kept import kept_in
from kd2edge.edge.worker import Answer, Job
from kd2edge.report.model import Report
from kd2edge.schema import Corruptions, Suite, Sweep
from tests.test_edge_bench import BRIEF, CLASSES, TARGET, Patterns, classifier, linear

SUITE = Suite(
    about="everything that has processes of its own",
    latency=BRIEF,
    sweep=Sweep(batches=(2,), threads=()),
    corruptions=Corruptions(kinds=("contrast",), severities=(2, 4), images=24),
    rules=(),
)
# of two rows: clean images, each of two kinds of damage, three rounds of latency that take turns, one cell of a sweep
JOBS = 2 * (1 + 2 + 3 + 1)
DEVICE = {name: None for name in devices.fingerprint()} | {"cpu": "a scripted one", "cores": 2}


class Machine:
    """In the place of `run_job`. It is killed before its job number `dies_at`, or `within` that job."""

    def __init__(self, dies_at: int | None = None, within: bool = False) -> None:
        self.dies_at, self.within = dies_at, within
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> Answer:
        self.jobs.append(job)
        outputs, samples = self.outputs(job), self.samples(job)
        killed = len(self.jobs) == self.dies_at
        if killed and not self.within:
            raise KeyboardInterrupt
        if job.outputs:
            np.save(job.outputs, outputs[: len(outputs) // 2] if killed else outputs)
        if killed:
            raise KeyboardInterrupt
        if job.samples:
            np.save(job.samples, samples)
        peak = 100 + self.number(job, "memory") % 100
        return Answer(provider="Scripted", versions={"scripted": "1"}, warmup={"ms": 1.5}, peak_memory_mib=peak)

    def outputs(self, job: Job) -> np.ndarray:
        """Those of a linear net whose weights the file's bytes decide."""
        images = normalize(np.load(job.images), job.preprocessing)
        pixels = images.reshape(len(images), -1)
        weights = np.random.default_rng(self.number(job, "weights")).standard_normal((pixels.shape[1], CLASSES))
        return np.asarray((pixels @ weights).astype(np.float32))

    def samples(self, job: Job) -> np.ndarray:
        """Nanoseconds that the file, the protocol and the number of the round decide."""
        random = np.random.default_rng(self.number(job, f"{job.latency} {job.turn}"))
        return np.asarray(random.integers(1_000_000, 1_040_000, 40))

    @staticmethod
    def number(job: Job, what: str) -> int:
        return int.from_bytes(hashlib.sha256(job.model.read_bytes() + what.encode()).digest()[:8], "big")


def measured(items: list[tuple[str, Artifact]], folder: Path | None = None, **options: Any) -> Report:
    """The report of a bench that keeps what it measures in a folder, and removes it once it is finished."""
    given: dict[str, Any] = {
        "target": TARGET,
        "target_name": "here",
        "suite": SUITE,
        "suite_name": "all",
        "source": Patterns(),
    }
    if folder is None:
        return bench(items, **(given | options))
    with kept_in(folder) as kept:
        report = bench(items, **(given | options), kept=kept)
        kept.remove()
        return report


def told(report: Report) -> dict[str, Any]:
    """All of a report but when it was made, and that it was resumed."""
    document = report.model_dump(mode="json") | {"created": ""}
    for row in document["rows"]:
        row["conditions"].pop("resumed", None)
    return document


def two_nets(folder: Path) -> list[tuple[str, Artifact]]:
    fp32 = linear(folder / "fp32.onnx", classifier())
    return [("fp32", fp32), ("int8", linear(folder / "int8.onnx", np.round(classifier(), 1), precision="int8"))]


def on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(jobs, "run_job", machine)
    return machine


def broken_off(
    items: list[tuple[str, Artifact]], room: Path, at: int, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    on(Machine(dies_at=at), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        measured(items, room, **options)


def sittings(report: Report) -> set[int]:
    return {row.conditions.get("resumed", {"sittings": 1})["sittings"] for row in report.rows}
