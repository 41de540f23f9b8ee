"""Starting a worker process and waiting for its answer; one that dies leaves a fault, never an exception."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import kd2edge
from kd2edge.edge.worker import Answer, Job


def run_job(job: Job) -> Answer:
    """Do a job in a fresh Python process with the target's number of threads."""
    done = subprocess.run(
        [sys.executable, "-m", "kd2edge.edge.worker"],
        input=job.model_dump_json().encode(),
        env=_environment(job.target.threads),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode == 0 and job.answer.is_file():
        return Answer.model_validate_json(job.answer.read_bytes())
    return Answer(fault=_last_words(done.returncode, done.stderr.decode(errors="replace")))


def _environment(threads: int) -> dict[str, str]:
    package = str(Path(kd2edge.__file__).parent.parent)
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def _last_words(status: int, stderr: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"its process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    lines = stderr.strip().splitlines()
    return f"its process failed with status {status}: {lines[-1] if lines else 'it said nothing'}"
