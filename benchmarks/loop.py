"""What the training loop adds to a step of the smallest student: python benchmarks/loop.py [--turns N] [--steps N].

ResNet-8 at batch 64, on Omniglot's images by its recipe's plain loss, and on random ones of CIFAR's size. In turns of
one process, who begins changing each time: `bare` below, a loop that anyone would write, and kd2edge's `Trainer` as
`kd2edge distill` runs it, with its bar and TensorBoard. Both make their images ready by the same function, use the
same optimiser, keep freed memory, and end in the same bits, which is checked. A step is what lies between two ends of
one, by the wall and of the processor, which a busy machine disturbs less; a turn's first is left out, and so is what an
epoch's end costs, the log's line and the checkpoint. A ratio is kd2edge's median step of a turn over the bare loop's of
the turn beside it, the geometric mean of all turns, with an interval that resamples these: how fast a turn is, its
memory's places decide, by a tenth and for all of it, so that medians of all steps jump between what turns were.
"""

import argparse
import functools
import io
import json
import math
import os
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn

from kd2edge import drawers, schema, stats
from kd2edge.cli.terminal import Terminal
from kd2edge.data import InMemory, open_source
from kd2edge.edge.devices import fingerprint, versions
from kd2edge.files import write_atomic
from kd2edge.kd import devices, heap, net, trackers
from kd2edge.kd.augment import Preparation, draw
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.schedule import optimizer
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "loop.json"
BATCH = 64
ADDED_AT_MOST = 0.02

Nanoseconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """A student, and what it is shown for one turn: as many images as the turn's steps take."""

    spec: schema.NetSpec
    task: Task
    split: InMemory
    how: schema.Preprocessing
    plan: schema.Train

    def student(self) -> net.Net:
        torch.manual_seed(0)
        return net.build(self.spec, net.Shape(self.how.channels, self.how.size, len(self.split.classes)))


def omniglot(steps: int) -> Subject:
    recipe = drawers.read_recipe("omniglot")
    source = open_source(recipe.data.model_dump())
    split = source.split("train")
    index = np.random.default_rng(0).permutation(len(split))[: BATCH * steps].astype(np.int64)
    few = InMemory(split.read(index), split.labels[index], {}, split.classes)
    plan = recipe.train.model_copy(update={"batch": BATCH, "epochs": 1, "schedule": "constant", "warmup": 0.0})
    return Subject(recipe.student, Task(recipe.task), few, source.preprocessing(), plan)


def cifar(steps: int) -> Subject:
    """Random images: what a step takes does not depend on them."""
    random, count = np.random.default_rng(0), BATCH * steps
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    few = InMemory(images, random.integers(0, 10, count), {}, [str(label) for label in range(10)])
    how = schema.Preprocessing(size=(32, 32), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, decoder="none")
    spec = schema.NetSpec.model_validate({"model": {"name": "resnet_cifar", "arch": "8"}})
    augment = {"crop_padding": 4, "flip": True}
    plan = {"epochs": 1, "batch": BATCH, "lr": 0.05, "schedule": "constant", "augment": augment}
    return Subject(spec, Task("classification"), few, how, schema.Train.model_validate(plan))


SUBJECTS = {"omniglot": omniglot, "cifar": cifar}


def now() -> tuple[int, int]:
    """By the wall, and of the processor on all threads, in ns."""
    return time.perf_counter_ns(), time.process_time_ns()


class Watched(Terminal):
    """The bar of a terminal that nobody looks at; notes when each step ends."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self.people = Console(file=io.StringIO(), force_terminal=True, width=100)
        self.ends: list[tuple[int, int]] = []

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        super().advance(steps, **figures)
        if figures:
            self.ends.append(now())


def ours(subject: Subject) -> tuple[Nanoseconds, nn.Module]:
    """A turn of kd2edge: each step but the first as `now` has it, int64 [steps - 1, 2], and the net as trained."""
    student, watched = subject.student(), Watched()

    def losses(batch: Batch) -> Losses:
        return {"ce": subject.task.lesson(student, batch.images, batch.labels)}

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tracker = trackers.open_tracker(("tensorboard",), folder, "loop", watched.say)
        log = folder / "log.jsonl"
        made = Trainer(subject.split, subject.how, subject.plan, 0, folder, log, watched, tracker=tracker)
        made.run(Stage("student", student, losses))
        tracker.close()
    watched.close()
    return np.diff(np.array(watched.ends), axis=0), student


def bare(subject: Subject) -> tuple[Nanoseconds, nn.Module]:
    """A turn of the bare loop, which is shown the same; chance is seeded as kd2edge does, outside what is timed."""
    plan, labels, ends = subject.plan, torch.from_numpy(subject.split.labels), []
    device = devices.find("cpu")
    precision = devices.precision(plan.precision, device)
    student = subject.student().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sgd, prepare = optimizer(student, plan), Preparation(plan.augment, subject.how, device)
    entropy, generator = [0, zlib.crc32(b"student"), 0], torch.Generator()
    order = np.random.default_rng(entropy).permutation(len(labels))
    steps = len(labels) // BATCH
    seeds = [zlib.crc32(repr([*entropy, step]).encode()) for step in range(steps)]
    for step in range(steps):
        index = order[step * BATCH : (step + 1) * BATCH]
        images = torch.from_numpy(subject.split.images[index])
        ready = prepare(images, draw(plan.augment, BATCH, generator.manual_seed(seeds[step])))
        sgd.zero_grad(set_to_none=True)
        with devices.autocast(device, precision):
            loss = subject.task.lesson(student, ready, labels[torch.from_numpy(index)])
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        if plan.clip is not None:
            nn.utils.clip_grad_norm_(student.parameters(), plan.clip)
        sgd.step()
        ends.append(now())
    return np.diff(np.array(ends), axis=0), student


def in_turns(subject: Subject, turns: int) -> dict[str, list[Nanoseconds]]:
    """Both loops' steps by turn; one turn of each more is for warming up. Raises where they do not train the same."""
    sides = {"kd2edge": ours, "bare": bare}
    taken: dict[str, list[Nanoseconds]] = {name: [] for name in sides}
    with heap.kept():
        for turn in range(turns + 1):
            made = {}
            for name in list(sides) if turn % 2 else list(sides)[::-1]:
                steps, student = sides[name](subject)
                made[name] = student.state_dict()
                taken[name].append(steps)
            for key, tensor in made["bare"].items():
                if not torch.equal(tensor, made["kd2edge"][key]):
                    raise SystemExit(f"The two loops do not train the same net: {key} differs.")
    return {name: steps[1:] for name, steps in taken.items()}


def compared(taken: dict[str, list[Nanoseconds]]) -> dict[str, Any]:
    """Medians of turns in ms, and their ratio [value, low, high] at 95 %, null where turns are too few."""
    found: dict[str, Any] = {}
    for clock, name in enumerate(("wall", "processor")):
        by_turn = {side: [float(np.median(turn[:, clock])) / 1e6 for turn in turns] for side, turns in taken.items()}
        found[f"{name}_ms"] = {side: round(stats.median(each), 4) for side, each in by_turn.items()}
        found[f"{name}_ms_by_turn"] = {side: [round(ms, 4) for ms in each] for side, each in by_turn.items()}
        apart = np.log(np.array(by_turn["kd2edge"]) / np.array(by_turn["bare"]))
        mean = stats.bootstrap(functools.partial(_mean, apart), len(apart))
        told = [mean.value, *(mean.interval() or ())]
        found[f"{name}_ratio"] = [round(math.exp(each), 5) for each in told] + [None] * (3 - len(told))
    return found


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    means: npt.NDArray[np.float64] = weights @ values / weights.sum(1)
    return means


def report(given: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(given.threads)
    device = fingerprint()
    rows = {name: compared(in_turns(SUBJECTS[name](given.steps), given.turns)) for name in given.subjects}
    ratios = [row["wall_ratio"] for row in rows.values()]
    return {
        "command": f"python benchmarks/loop.py --turns {given.turns} --steps {given.steps} --threads {given.threads}",
        "conditions": {
            "student": "ResNet-8",
            "batch": BATCH,
            "turns": given.turns,
            "steps_a_turn": given.steps,
            "threads": given.threads,
            "precision": devices.precision("auto", torch.device("cpu")),
            "confidence": 0.95,
        },
        "device": device,
        "versions": {**versions(), "torch": torch.__version__},
        "rows": rows,
        "met": {
            "added_at_most_2_percent": all(value <= 1 + ADDED_AT_MOST for value, _, _ in ratios),
            "added_surely_at_most_2_percent": all(
                high is not None and high <= 1 + ADDED_AT_MOST for _, _, high in ratios
            ),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40, help="of each loop")
    parser.add_argument("--steps", type=int, default=50, help="of each turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    made = report(given)
    print(json.dumps({name: made[name] for name in ("rows", "met")}, indent=1))
    write_atomic(given.out, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
