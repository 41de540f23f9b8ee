"""Runtimes on one model beside each other: opened together, measured in turns, told with ratios to the first one."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.cells import last_words
from benchmarks.gpu.contender import ROUND, Asked
from benchmarks.gpu.subjects import ROOT
from kd2edge import stats
from kd2edge.edge import measure, staged
from kd2edge.edge.leaving import PARENT
from kd2edge.edge.watch import Watch
from kd2edge.errors import UserError
from kd2edge.graph.parity import compare, require

ROUNDS = 3
OPENING = 2 / 3  # of the time there is: the rounds have the rest
A_ROUND_AT_MOST_S = 30.0
AT_MOST_S = 600.0

Nanoseconds = npt.NDArray[np.int64]


class Contender:
    """A process and what it has said so far. Once there is a `fault` it is out."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.fault: str | None = None
        self.opened: dict[str, Any] = {}
        self.rounds: list[dict[str, Any]] = []
        self.asked_at = time.monotonic()
        self.lasted = 0.0  # a round, in seconds
        self.said = asked.folder / f"{asked.name}.said.txt"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        environment[PARENT] = str(os.getpid())
        command = [sys.executable, "-m", "benchmarks.gpu.contender"]
        pipe = subprocess.PIPE
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=said, text=True, env=environment, cwd=ROOT
            )
        self._replies: queue.Queue[str] = queue.Queue()
        self._ears = threading.Thread(target=self._listen, daemon=True)
        self._ears.start()
        self._say(asked.model_dump_json())

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next reply; None, and a fault, where it says one, ends or takes longer."""
        told: dict[str, Any]
        try:
            line = self._replies.get(timeout=max(seconds, 0.1))
            told = json.loads(line) if line else {"fault": self._last(f"its process ended ({self.process.wait()})")}
        except queue.Empty:
            told = {"fault": self._last(f"no answer after {time.monotonic() - self.asked_at:.0f} s")}
        self.fault = told.get("fault")
        if self.fault:
            self.close()
        return None if self.fault else told

    def open(self, seconds: float) -> None:
        self.opened = self.answer(seconds) or {}

    def round(self, number: int, seconds: float) -> None:
        self._say(json.dumps({ROUND: number}))
        told = self.answer(min(seconds, A_ROUND_AT_MOST_S))
        self.lasted = time.monotonic() - self.asked_at
        if told is not None:
            self.rounds.append(told)

    def samples(self, kind: str) -> list[Nanoseconds]:
        """The files of that kind that its rounds left, "ns" or "stages"."""
        files = [self.asked.folder / f"{self.asked.name}.{n + 1}.{kind}.npy" for n in range(len(self.rounds))]
        return [np.load(file) for file in files if file.is_file()]

    def close(self) -> None:
        self.process.kill()
        self._ears.join()
        with suppress(OSError):  # what could not be written to a process that had ended
            self.process.__exit__(None, None, None)

    def _last(self, fault: str) -> str:
        return f"{fault}: {last_words(self.said)}"

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.asked_at = time.monotonic()
        with suppress(OSError):  # it has ended, which its missing answer tells
            print(line, file=self.process.stdin, flush=True)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._replies.put(line)
        self._replies.put("")


def contest(asked: list[Asked], ends: float, references: dict[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    """What came of each contender by its name, of as many rounds as there is time for until `ends` (`time.monotonic`).

    Outputs are compared with `references`, float32 [N, D] by name.
    """
    contenders: list[Contender] = []
    try:
        for one_asked in asked:
            contenders.append(Contender(one_asked))
        began = time.monotonic()
        ends = min(ends, began + AT_MOST_S)
        opened_by = began + OPENING * (ends - began)
        for one in contenders:
            one.open(opened_by - time.monotonic())
        with Watch(gpu=True) as watch:
            for number in range(1, ROUNDS + 1):
                for one in contenders:
                    left = ends - time.monotonic()
                    if one.fault is None and left > one.lasted:
                        one.round(number, left)
    finally:
        for one in contenders:
            one.close()
    for one in contenders:
        if one.fault is None and not one.rounds:
            one.fault = "the time was over before its first round"
    sound = [one for one in contenders if one.fault is None]
    return {one.asked.name: _told(one, sound, watch, references) for one in contenders}


def _told(
    one: Contender, sound: list[Contender], watch: Watch, references: dict[str, npt.NDArray[np.float32]]
) -> dict[str, Any]:
    if one.fault is not None:
        return {"fault": one.fault}
    batch, first = one.asked.latency.batch, sound[0]
    numbers, conditions = measure.summary(one.samples("ns"), batch)
    stages = one.samples("stages")
    if stages:
        graphed = any(part[:, -1].any() for part in stages)
        no_graph = None if graphed else next((told["no_graph"] for told in one.rounds if "no_graph" in told), None)
        more, told = staged.summary(stages, batch, one.asked.target.cuda_graph, no_graph)
        numbers, conditions = numbers | more, conditions | told
    watched = [watch.told((told["measured"][0], told["measured"][1])) for told in one.rounds]
    return {
        **one.opened,
        "numbers": {name: number.model_dump(exclude_none=True) for name, number in numbers.items()},
        "conditions": {**conditions, "warmups": [told["warmup"] for told in one.rounds]},
        "watched": [window.model_dump(mode="json", exclude_defaults=True) for window in watched],
        "ratio_to": {"first": first.asked.name, **_ratios(one, first)},
        "parity": {name: _parity(one, outputs) for name, outputs in references.items()},
    }


def _ratios(one: Contender, first: Contender) -> dict[str, list[float | None]]:
    """Median times over the first one's, [value, low, high] at 95 %: end to end, and computing, each as it ships."""
    pairs = {"latency_p50": (one.samples("ns"), first.samples("ns"))}
    mine, its = (
        [_computing(part, side.asked.target.cuda_graph) for part in side.samples("stages")] for side in (one, first)
    )
    if mine and its and all(len(part) for part in (*mine, *its)):
        pairs["gpu_compute_p50"] = (mine, its)
    found = {name: stats.percentile_ratio(ours, theirs, 50) for name, (ours, theirs) in pairs.items()}
    return {name: [ratio.value, *(ratio.interval() or (None, None))] for name, ratio in found.items()}


def _computing(stages: Nanoseconds, graph: bool) -> Nanoseconds:
    """Computing in ns with a captured graph or without one; int64 [n] of int64 [n, 5]."""
    column: Nanoseconds = stages[stages[:, -1] == int(graph), staged.FIELDS.index("compute")]
    return column


def _parity(one: Contender, outputs: npt.NDArray[np.float32]) -> dict[str, Any] | None:
    """Agreement, and the levels of `graph.parity` that it reaches.

    Random weights give much the same output to all images, so that any two have a cosine near 1. `cosine_apart_min` is
    of what sets an image apart: the reference's mean over the images is taken off both.
    """
    if not one.asked.outputs.is_file():
        return None
    theirs, mean = np.load(one.asked.outputs), outputs.mean(axis=0)
    found = compare(outputs, theirs)
    reached = []
    for level in ("fp32", "fp16", "int8"):
        try:
            require(found, level)
        except UserError:
            continue
        reached.append(level)
    apart = compare(outputs - mean, theirs - mean)
    return {**vars(found), "reaches": reached, "cosine_apart_min": apart.cosine_min}
