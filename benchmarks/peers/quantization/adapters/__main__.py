"""The process of one tool: a job on stdin, an answer on the last line of stdout, with its time and its peak memory."""

import contextlib
import importlib
import resource
import sys
import time
from importlib import metadata

from benchmarks.peers.quantization.adapters.job import Answer, Job
from kd2edge.edge.worker import peak_memory_mib
from kd2edge.errors import first_line

SHARE = 0.8  # of the memory that is free


def bounded() -> None:
    """Let a tool that wants more memory than there is fail alone: some keep all activations of all images."""
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/meminfo") as lines:
            free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        resource.setrlimit(resource.RLIMIT_DATA, (int(1024 * SHARE * free),) * 2)


def perform(job: Job) -> Answer:
    """Whatever a tool raises becomes a sentence: it is a row of the table, not our crash."""
    adapter = importlib.import_module(f"benchmarks.peers.quantization.adapters.{job.adapter}")
    try:
        began = time.perf_counter()
        notes = adapter.quantize(job)
        seconds = time.perf_counter() - began
    except ImportError as error:
        return Answer(missing=f"{first_line(error)}: {adapter.INSTALL}")
    except Exception as error:
        return Answer(failed=f"{type(error).__name__}: {first_line(error)}")
    if not job.out.is_file():
        return Answer(failed="it ended without writing a model")
    versions = {name: metadata.version(name) for name in adapter.PACKAGES}
    return Answer(seconds=seconds, peak_mib=peak_memory_mib(), versions=versions, notes=notes)


if __name__ == "__main__":
    given = Job.model_validate_json(sys.stdin.read())
    bounded()
    with contextlib.redirect_stdout(sys.stderr):
        answer = perform(given)
    print(answer.model_dump_json())
