"""One subject measured: its contenders in turns, then what each feature of kd2edge is worth, in turns as well."""

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.peers.training.images import Material, prepare
from benchmarks.peers.training.job import Job
from benchmarks.peers.training.result import OTHER_SEED, OURS, REFERENCE, START, TORCHDISTILL, Result, Side
from benchmarks.peers.training.subjects import Subject
from benchmarks.peers.training.turns import Contender, Failed, ended, in_turns
from kd2edge.edge.devices import fingerprint, versions

MODULES = {
    OURS: "kd2edge_trainer",
    REFERENCE: "reference",
    OTHER_SEED: "reference",
    TORCHDISTILL: "torchdistill_box",
}


@dataclass(frozen=True)
class Options:
    """How much is measured, and by what."""

    device: str
    turns: int
    ablation_turns: int
    scale: float
    threads: int
    workers: int
    folder: Path
    cifar: Path | None = None
    faces: Path | None = None
    weights: Path | None = None
    torchdistill: Path = Path(sys.executable)
    ablate: bool = True

    def block(self, subject: Subject) -> int:
        """Steps in a turn."""
        return max(1, round(subject.block * self.scale))


def measured(subject: Subject, options: Options, command: str) -> Result:
    """All contenders of a subject, and its ablation."""
    load = os.getloadavg()[0]
    material = prepare(subject, options.cifar if subject.kind == "cifar" else options.faces, options.folder)
    published = options.weights / subject.weights if options.weights and subject.weights else None
    if published is not None and not published.is_file():
        published = None
    sides = _contest(subject, options, material, published)
    ablation = _ablation(subject, options, material, published) if options.ablate else ()
    return Result(
        subject=subject.name,
        about=subject.about,
        command=command,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        batch=subject.train().batch,
        conditions={
            "images": material.about,
            "teacher": "none" if subject.teacher is None else published.name if published else "untrained",
            "threads": options.threads,
            "turns": options.turns,
            "steps_in_a_turn": options.block(subject),
            "ablation_turns": options.ablation_turns,
            "load": round(load, 2),
            **({"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {}),
        },
        device=fingerprint(),
        versions={**versions(), "torch": torch.__version__},
        sides=sides,
        ablation=ablation,
    )


def _contest(subject: Subject, options: Options, material: Material, published: Path | None) -> tuple[Side, ...]:
    names = [OURS, REFERENCE, *([TORCHDISTILL] if subject.method == {"name": "kd"} else [])]
    jobs = {name: _job(subject, options, material, published, name) for name in names}
    sides = _sides(jobs, options, options.turns, options.block(subject))
    again = _job(subject, options, material, published, OTHER_SEED).model_copy(update={"seed": 1})
    return (*sides, *_sides({OTHER_SEED: again}, options, options.turns, options.block(subject)))


def _ablation(subject: Subject, options: Options, material: Material, published: Path | None) -> tuple[Side, ...]:
    """kd2edge beside itself with one thing changed: compiled where it is not, and the other way round, among others.

    Two processes at a time: what stands still holds its memory.
    """
    compiles = subject.way(options.device, material.count).mode == "off"
    graphs = ["graphs"] * (options.device == "cuda")
    changed = [*subject.ablated, "compiled" if compiles else "compile", *graphs]
    ours = _job(subject, options, material, published, OURS)
    found: list[Side] = []
    for change in changed:
        other = ours.model_copy(update={"changed": change, "folder": options.folder / f"changed-{change}"})
        block = max(1, options.block(subject) // 4)
        plain, side = _sides({OURS: ours, change: other}, options, options.ablation_turns, block)
        found += [plain] if not found else []
        found.append(side.model_copy(update={"beside": plain.ms}))
    return tuple(found)


def _job(subject: Subject, options: Options, material: Material, published: Path | None, name: str) -> Job:
    return Job(
        subject=subject.name,
        contender=MODULES[name],
        images=material.images,
        labels=material.labels,
        classes=material.classes,
        folder=options.folder / name.replace(", ", "-").replace(" ", "-"),
        device=options.device,
        workers=options.workers,
        weights=published,
    )


def _sides(jobs: dict[str, Job], options: Options, turns: int, block: int) -> tuple[Side, ...]:
    """Each opened and its first step done while the others are stopped; then all in turns."""
    contenders: dict[str, Contender] = {}
    sides: dict[str, Side] = {}
    with ended(contenders):
        for name, job in jobs.items():
            python = options.torchdistill if name == TORCHDISTILL else Path(sys.executable)
            try:
                contenders[name] = Contender(job, options.threads, python)
                first = contenders[name].block(1)
                warm = contenders[name].block(START - 1)
            except Failed as fault:
                contenders.pop(name, None)
                sides[name] = Side(name=name, fault=str(fault))
                continue
            opened = contenders[name].opened
            sides[name] = Side(
                name=name,
                opened_s=round(opened["opened"], 3),
                first_step_s=round(first["seconds"], 3),
                start_s=round(first["seconds"] + warm["seconds"], 3),
                losses=tuple(_short(first["losses"] + warm["losses"])),
                notes=opened["notes"],
            )
        with contextlib.suppress(KeyError):
            for name, answers in in_turns(contenders, turns, block).items():
                losses = [loss for answer in answers for loss in answer["losses"]]
                ms = tuple(round(1000 * answer["seconds"] / block, 4) for answer in answers)
                side = sides[name]
                sides[name] = side.model_copy(update={"ms": ms, "losses": (*side.losses, *_short(losses))})
    return tuple(sides.values())


def _short(losses: list[float]) -> list[float]:
    return [float(f"{loss:.6g}") for loss in losses]
