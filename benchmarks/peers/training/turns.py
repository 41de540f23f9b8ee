"""Contenders in turns: each its own process, stopped while another runs, so that a slow machine is slow for all.

A stopped process computes nothing and reads nothing ahead, and its data loader's workers stop with it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.training.job import STEPS, Job
from kd2edge.edge.leaving import PARENT

ROOT = Path(__file__).resolve().parents[3]


class Failed(Exception):
    """A contender cannot go on; what it says is a row of the table."""


class Contender:
    """A process that trains a block of steps when it is asked to."""

    def __init__(self, job: Job, threads: int, python: Path = Path(sys.executable)) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        cache = job.folder.parent / "inductor"  # empty at first, so that what compiling costs is seen
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.peers.training.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**environment, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
            start_new_session=True,
        )
        self._say(job.model_dump_json())
        self.opened: dict[str, Any] = self._heard()
        self._stop()

    def block(self, steps: int) -> dict[str, Any]:
        """Train so many steps: their `seconds` together, and the `losses` of each. Raises `Failed`."""
        os.killpg(self._process.pid, signal.SIGCONT)
        self._say(json.dumps({STEPS: steps}))
        answer = self._heard()
        self._stop()
        return answer

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it died of is heard next
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"fault": self._last_words()}
        if "fault" in answer:
            self.close()
            raise Failed(answer["fault"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"it died ({code})"


@contextlib.contextmanager
def ended(contenders: Mapping[str, Contender]) -> Iterator[None]:
    """Close all contenders however the block ends."""
    try:
        yield
    finally:
        for contender in contenders.values():
            contender.close()


def in_turns(contenders: Mapping[str, Contender], turns: int, block: int) -> dict[str, list[dict[str, Any]]]:
    """What each answers to `turns` blocks of so many steps; who begins is drawn anew for each turn."""
    random, found = np.random.default_rng(0), {name: [] for name in contenders}  # type: ignore[var-annotated]
    names: Sequence[str] = list(contenders)
    for _ in range(turns):
        for name in random.permutation(names).tolist():
            found[name].append(contenders[name].block(block))
    return found
