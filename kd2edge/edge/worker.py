"""A fresh process for one configuration: `python -m kd2edge.edge.worker`, a job on stdin, an answer in a file.

A process of its own, since threads, caches and allocator of one model must not touch the numbers of another, and a
runtime that crashes must not take the bench with it. Accuracy is computed from the very file that ships.
"""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from kd2edge.data import Images, normalize
from kd2edge.edge.leaving import leave_with_parent, save, tell
from kd2edge.edge.measure import measure
from kd2edge.edge.scenarios import play
from kd2edge.edge.session import Floats, Session, Staged, open_backend
from kd2edge.edge.staged import flood, measure_stages
from kd2edge.edge.watch import Watched
from kd2edge.errors import UserError
from kd2edge.schema import Latency, Preprocessing, Scenario, Section, Target

IMAGES_TO_TIME = 32  # few, since they count towards the peak memory
BATCH = 32
NOTHING = np.empty(0, np.int64)


class Job(Section):
    """What one process does: `outputs`, `latency` and `scenario` each ask for a part of it, the last two not together.

    With `flip`, outputs are the sums of an image's and its mirror's, as insightface has its embeddings; here they are
    added in float32, there in float64, which moves a distance by some 1e-7.
    `images` is a .npy of uint8 [N, H, W, C]; `outputs`, if given, receives float32 [N, D]; `samples` receives int64
    nanoseconds [n] if `latency` or a `scenario` is given; `answer` receives the `Answer`. Jobs that are otherwise
    alike, such as rounds of latency, differ by their `turn`: one is never taken for the other.
    Where the session is on a device of its own, `stages` receives int64 [n, 5] with the latency (see `staged`), and
    `streams` are the batches under way at once: with more than one `samples` are the times between them.
    """

    model: Path
    backend: str
    target: Target
    images: Path
    preprocessing: Preprocessing
    answer: Path
    outputs: Path | None = None
    latency: Latency | None = None
    scenario: Scenario | None = None
    samples: Path | None = None
    stages: Path | None = None
    streams: int = Field(1, ge=1)
    flip: bool = False
    turn: int = 1


class Start(Section):
    """What a fresh process waits for in ms, the file in the disk's cache: the runtime, the session, the first batch."""

    runtime_load: float
    session_open: float
    first_inference: float


class Answer(Section):
    """What came of a job. A `fault` is one sentence and leaves the rest empty.

    `start` is told by jobs of latency, `scenario` is what `scenarios.play` tells beside latencies. `measured` is the
    time in which samples were taken, from and to in ns of `time.perf_counter_ns`; what was `watched` in it the parent
    adds; so it is with `staged`, the time of the stages, and `watched_stages`. `note` says why there are no samples.
    """

    provider: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    fixed_batch: int | None = None
    warmup: dict[str, Any] = Field(default_factory=dict)
    start: Start | None = None
    scenario: dict[str, Any] = Field(default_factory=dict)
    measured: tuple[int, int] | None = None
    watched: Watched | None = None
    on_device: bool = False
    staged: tuple[int, int] | None = None
    watched_stages: Watched | None = None
    no_graph: str | None = None
    note: str | None = None
    peak_memory_mib: float = 0.0
    fault: str | None = None


def main() -> None:
    """Do the job on stdin. Whatever goes wrong becomes the fault of the answer."""
    leave_with_parent()
    job = Job.model_validate_json(sys.stdin.read())
    try:
        answer = perform(job)
    except UserError as error:
        answer = Answer(fault=str(error.message))
    except Exception as error:  # a runtime may raise anything; a row with this fault never passes the gate
        answer = Answer(fault=f"{type(error).__name__}: {' '.join(str(error).split())}")
    tell(job.answer, answer.model_dump_json())


def perform(job: Job) -> Answer:
    """Open the session and do what the job asks for."""
    images = np.load(job.images, mmap_mode="r")
    moments = [time.perf_counter_ns()]
    backend = open_backend(job.backend)
    moments.append(time.perf_counter_ns())
    with backend.open(job.model, job.target) as session:
        moments.append(time.perf_counter_ns())
        told: dict[str, Any] = {}
        if job.outputs:
            save(job.outputs, outputs(session, images, job))
        if job.latency and job.samples and job.streams == 1:
            told = _latency(session, images, job, job.latency, moments)
            save(job.samples, told.pop("ns"))
            if job.stages and isinstance(session, Staged):
                told |= _stages(session, images, job, job.latency, job.stages)
        elif job.latency and job.samples:
            told = _streams(session, images, job, job.latency)
            save(job.samples, told.pop("ns"))
        if job.scenario and job.samples:
            told = _scenario(session, images, job, job.scenario)
            save(job.samples, told.pop("ns"))
        return Answer(
            provider=session.provider,
            versions=session.versions,
            fixed_batch=session.fixed_batch,
            on_device=isinstance(session, Staged),
            peak_memory_mib=peak_memory_mib(),
            **told,
        )


def _latency(session: Session, images: Images, job: Job, latency: Latency, moments: list[int]) -> dict[str, Any]:
    some = _to_time(images, job, latency.batch)
    batch = some[np.arange(latency.batch) % len(some)]
    asked = time.perf_counter_ns()
    session.infer(batch)
    load, opened, first = (ns / 1e6 for ns in (*np.diff(moments).tolist(), time.perf_counter_ns() - asked))
    measured = measure(session, some, latency)
    ended = time.perf_counter_ns()
    return {
        "ns": measured.ns,
        "warmup": measured.warmup,
        "measured": (ended - int(measured.ns.sum()), ended),
        "start": Start(runtime_load=load, session_open=opened, first_inference=first),
    }


def _stages(session: Staged, images: Images, job: Job, latency: Latency, out: Path) -> dict[str, Any]:
    """After the latency, so that this is measured as it ever was."""
    began = time.perf_counter_ns()
    taken, told = measure_stages(session, _to_time(images, job, latency.batch), latency, time.perf_counter_ns)
    save(out, taken)
    return told | {"staged": (began, time.perf_counter_ns())}


def _streams(session: Session, images: Images, job: Job, latency: Latency) -> dict[str, Any]:
    began, some = time.perf_counter_ns(), _to_time(images, job, latency.batch)
    if not isinstance(session, Staged):
        return {"ns": NOTHING, "note": f"{session.provider} works on one batch at a time"}
    try:
        session.open_streams(job.streams)
    except UserError as error:
        return {"ns": NOTHING, "note": error.message}
    ns = flood(session, some, latency, job.streams, time.perf_counter_ns)
    return {"ns": ns, "measured": (began, time.perf_counter_ns())}


def _scenario(session: Session, images: Images, job: Job, scenario: Scenario) -> dict[str, Any]:
    some = _to_time(images, job, job.target.batch.max)
    began = time.perf_counter_ns()
    ran = play(session, some, scenario, job.target.batch)
    return {"ns": ran.ns, "scenario": ran.told, "measured": (began, time.perf_counter_ns())}


def _to_time(images: Images, job: Job, batch: int) -> Floats:
    return normalize(np.array(images[: max(IMAGES_TO_TIME, batch)]), job.preprocessing)


def outputs(session: Session, images: Images, job: Job) -> Floats:
    """The model's outputs over all images, float32 [N, D], in batches that the model and the target's profile allow.

    Where the batch is fixed, or one of a single image none, the last one is filled up with images from the start.
    """
    span = job.target.batch
    size = session.fixed_batch or max(span.min, min(BATCH, span.max))
    filled = session.fixed_batch is not None or span.min > 1
    ends = len(images) + (-len(images) % size if filled else 0)
    parts = []
    for start in range(0, ends, size):
        index = np.arange(start, min(start + size, ends)) % len(images)
        some = images[index]
        parts.append(session.infer(normalize(some, job.preprocessing)))
        if job.flip:
            parts[-1] = parts[-1] + session.infer(normalize(some[:, :, ::-1], job.preprocessing))
    return np.concatenate(parts)[: len(images)]


def peak_memory_mib() -> float:
    """The most memory this process ever held resident, Python and all, in MiB.

    From /proc where it is: a process started by fork and exec inherits `ru_maxrss` from its parent.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


if __name__ == "__main__":
    main()
