"""A fresh process for one configuration: `python -m kd2edge.edge.worker`, a job on stdin, an answer in a file.

A process of its own, since threads, caches and allocator of one model must not touch the numbers of another, and a
runtime that crashes must not take the bench with it. Accuracy is computed from the very file that ships.
"""

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from kd2edge.data import Images, normalize
from kd2edge.edge.measure import measure
from kd2edge.edge.session import Floats, Session, open_backend
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.schema import Latency, Preprocessing, Section, Target

IMAGES_TO_TIME = 32  # few, since they count towards the peak memory
BATCH = 32


class Job(Section):
    """What one process does: `outputs` and `latency` each ask for a part of it.

    With `flip`, outputs are the sums of an image's and its mirror's, as insightface has its embeddings; here they are
    added in float32, there in float64, which moves a distance by some 1e-7.
    `images` is a .npy of uint8 [N, H, W, C]; `outputs`, if given, receives float32 [N, D]; `samples` receives int64
    nanoseconds [n] if `latency` is given; `answer` receives the `Answer`.
    """

    model: Path
    backend: str
    target: Target
    images: Path
    preprocessing: Preprocessing
    answer: Path
    outputs: Path | None = None
    latency: Latency | None = None
    samples: Path | None = None
    flip: bool = False


class Answer(Section):
    """What came of a job. A `fault` is one sentence and leaves the rest empty."""

    provider: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    warmup: dict[str, Any] = Field(default_factory=dict)
    peak_memory_mib: float = 0.0
    fault: str | None = None


def main() -> None:
    """Do the job on stdin. Whatever goes wrong becomes the fault of the answer."""
    job = Job.model_validate_json(sys.stdin.read())
    try:
        answer = perform(job)
    except UserError as error:
        answer = Answer(fault=str(error.message))
    except Exception as error:  # a runtime may raise anything; a row with this fault never passes the gate
        answer = Answer(fault=f"{type(error).__name__}: {' '.join(str(error).split())}")
    write_atomic(job.answer, answer.model_dump_json().encode())


def perform(job: Job) -> Answer:
    """Open the session and do what the job asks for."""
    images = np.load(job.images, mmap_mode="r")
    warmup: dict[str, Any] = {}
    with open_backend(job.backend).open(job.model, job.target) as session:
        if job.outputs:
            np.save(job.outputs, outputs(session, images, job))
        if job.latency and job.samples:
            some = normalize(np.array(images[: max(IMAGES_TO_TIME, job.latency.batch)]), job.preprocessing)
            measured = measure(session, some, job.latency)
            np.save(job.samples, measured.ns)
            warmup = measured.warmup
        return Answer(
            provider=session.provider, versions=session.versions, warmup=warmup, peak_memory_mib=peak_memory_mib()
        )


def outputs(session: Session, images: Images, job: Job) -> Floats:
    """The model's outputs over all images, float32 [N, D], in batches that the model and the target's profile allow.

    For a model of one fixed batch size the last batch is filled up with images from the start.
    """
    size = session.fixed_batch or min(BATCH, job.target.batch.max)
    ends = len(images) + (-len(images) % size if session.fixed_batch else 0)
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
