"""Starting a worker process and waiting for its answer; one that dies leaves a fault, never an exception.

A full disk is no fault of a model: the worker then ends by a status of its own, and the bench stops with a sentence.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import kd2edge
from kd2edge.edge.leaving import PARENT, UNWRITABLE
from kd2edge.edge.watch import Watch
from kd2edge.edge.worker import Answer, Job
from kd2edge.errors import UserError


class Died(Answer):
    """What stands for the answer of a process that ended without one. It is never kept: the next may live."""


def run_job(job: Job) -> Answer:
    """Do a job in a fresh Python process with the target's number of threads, and watch the machine while it measures.

    Raises `UserError` where the process could not write what it measured.
    """
    with Watch(energy=job.latency is not None and job.latency.energy, gpu=job.target.gpu) as watch:
        done = subprocess.run(
            [sys.executable, "-m", "kd2edge.edge.worker"],
            input=job.model_dump_json().encode(),
            env=_environment(job.target.threads),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    if done.returncode == 0 and job.answer.is_file():
        answer = Answer.model_validate_json(job.answer.read_bytes())
        seen = {"watched": answer.measured, "watched_stages": answer.staged}
        return answer.model_copy(update={name: watch.told(window) for name, window in seen.items() if window})
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == UNWRITABLE and said:
        raise UserError(said[-1], "free some space; what was measured is kept")
    return Died(fault=_last_words(done.returncode, said))


def _environment(threads: int) -> dict[str, str]:
    package = str(Path(kd2edge.__file__).parent.parent)
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, PARENT: str(os.getpid())}


def _last_words(status: int, said: list[str]) -> str:
    if status < 0:
        known = {number.value: number.name for number in signal.Signals}  # few of the real-time signals have a name
        name = known.get(-status, f"signal {-status}")
        return f"its process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"its process failed with status {status}: {said[-1] if said else 'it said nothing'}"
