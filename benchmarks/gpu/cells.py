"""A cell is one step in a process of its own, with its own time limit; what it comes to is a JSON file of its own.

The list is in order of importance, and each file is written as soon as its cell is over: a run that is broken off
keeps what it had. What a process says lies in `work/NAME.said.txt`.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from benchmarks.gpu.subjects import GRAPHS, ROOT
from kd2edge.edge.leaving import PARENT
from kd2edge.files import write_atomic
from kd2edge.schema import Section

State = Literal["done", "no GPU", "refused", "failed", "timed out", "not reached"]
ORDER = ("fp16", "int8", "fp32")  # what ships comes first
BATCHES = (1, 2, 4, 8, 16, 32)
LIMITS = {"machine": 60, "accepts": 60, "make": 90, "engine": 60, "contest": 120, "sweep": 45, "tuned": 240}
AT_LEAST = 0.5  # of its limit a cell must have left to be begun
FLAVOURS = ("tensorrt", "tensorrt_rtx", "rtx_current")


@dataclass(frozen=True)
class Room:
    """Where a run keeps its things: `cells` (results), `work` (models, engines, samples); `dry`: as without a GPU.

    A cell is over at `ends`, a moment of `time.monotonic`, which on Linux is one clock for all processes.
    """

    out: Path
    prepared: Path = GRAPHS
    dry: bool = False
    ends: float = math.inf

    @property
    def work(self) -> Path:
        return self.out / "work"

    def model(self, net: str, precision: str) -> Path:
        return self.work / f"{net}.{precision}.onnx"

    def engine(self, net: str, precision: str, batch: int | None = None) -> Path:
        return self.work / f"{net}.{precision}{'' if batch is None else f'.b{batch}'}.engine"

    def cell(self, name: str) -> Path:
        return self.out / "cells" / f"{name}.json"

    def told(self, name: str) -> Path:
        return self.work / f"{name}.told.json"

    def said(self, name: str) -> Path:
        return self.work / f"{name}.said.txt"


class Cell(Section):
    """`reason` says why there is no result, or none from a GPU; `result` is what the step tells, as JSON."""

    name: str
    state: State
    reason: str | None = None
    seconds: float = 0.0
    result: dict[str, Any] = Field(default_factory=dict)


def plan(nets: Sequence[str], precisions: Sequence[str] = ORDER) -> list[str]:
    """The names of all cells, so that what is cut off at the end is what is wanted least.

    What accepts this GPU, engines against their rivals in what ships, the first batch sweep, FP32, torch.compile
    tuned, which takes it minutes, and the other sweeps. The net to sweep first is the last but one: not the smallest,
    whose time is that of asking.
    """
    names = ["machine", "make-student", *(f"accepts-{flavour}" for flavour in FLAVOURS)]
    names += [f"make-{net}" for net in nets if net != "student"]
    wanted = [precision for precision in ORDER if precision in precisions]
    swept = sorted(
        ((p, net) for p in wanted for net in nets), key=lambda one: (one[0] != wanted[0], one[1] != nets[-2:][0])
    )
    sweeps = [[f"sweep-{net}-{precision}-{batch}" for batch in BATCHES] for precision, net in swept]
    contests = [[f"{kind}-{net}-{p}" for net in nets for kind in ("engine", "contest")] for p in wanted]
    tuned = [f"tuned-{net}-{p}" for p in wanted if p != "int8" for net in nets]
    parts = [*contests[:2], *sweeps[:1], *contests[2:], tuned, *sweeps[1:]]
    return names + [name for part in parts for name in part]


def read(room: Room, name: str) -> Cell | None:
    path = room.cell(name)
    return Cell.model_validate_json(path.read_bytes()) if path.is_file() else None


def write(room: Room, cell: Cell) -> Cell:
    """Keep a cell. No path of this machine stays in it."""
    text = cell.model_dump_json(indent=1)
    folders = {room.out.resolve(), room.out, ROOT, Path(sys.prefix), Path(sys.base_prefix), Path.home()}
    folders |= {Path(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder}
    for folder in sorted(folders - {Path("/"), Path()}, key=lambda path: -len(str(path))):
        text = text.replace(f"{folder}/", "")
    write_atomic(room.cell(cell.name), f"{text}\n".encode())
    return Cell.model_validate_json(text)


def command(room: Room, name: str) -> list[str]:
    folders = ["--out", str(room.out), "--prepared", str(room.prepared), "--ends", str(room.ends)]
    return [sys.executable, "-m", "benchmarks.gpu.step", name, *folders, *(["--dry"] if room.dry else [])]


def run(room: Room, name: str, seconds_left: float) -> Cell:
    """Do a cell in a fresh process; its children end with it where it takes longer than it may.

    What it told before it ended is taken: a library may fail in leaving.
    """
    most = LIMITS[name.partition("-")[0]]
    limit = min(most, seconds_left)
    if limit < AT_LEAST * most:
        return write(room, Cell(name=name, state="not reached", reason="the time was over"))
    room.work.mkdir(parents=True, exist_ok=True)
    room.told(name).unlink(missing_ok=True)
    began = time.monotonic()
    ended = _ended(replace(room, ends=began + limit), name, limit)
    seconds = time.monotonic() - began
    if room.told(name).is_file():
        return write(
            room, Cell.model_validate_json(room.told(name).read_bytes()).model_copy(update={"seconds": seconds})
        )
    last = last_words(room.said(name))
    if ended is None:
        return write(room, Cell(name=name, state="timed out", reason=f"over {limit:.0f} s: {last}", seconds=seconds))
    return write(room, Cell(name=name, state="failed", reason=f"its process ended ({ended}): {last}", seconds=seconds))


def _ended(room: Room, name: str, limit: float) -> int | None:
    """The status that a cell's process left with; None where it was ended, with all that it had begun."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(room.work / "inductor"), PARENT: str(os.getpid())}
    with room.said(name).open("wb") as said:  # a file: whoever is left of its children holds no pipe open
        process = subprocess.Popen(
            command(room, name), cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_words(said: Path) -> str:
    """The last line of what a process said."""
    return (said.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
