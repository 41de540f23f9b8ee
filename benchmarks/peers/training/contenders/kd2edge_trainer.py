"""kd2edge: its own trainer with its defaults, or with one feature left out, or put in (`job.changed`)."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.peers.training.job import Blocks, Job
from benchmarks.peers.training.loader import transforms
from benchmarks.peers.training.subjects import STAGE, SUBJECTS, Subject, taught
from kd2edge.cli.terminal import Terminal
from kd2edge.data import Images, InMemory, Ints
from kd2edge.kd import depthwise, heap, quick_teacher, trackers
from kd2edge.kd.activations import PReLU
from kd2edge.kd.method import Batch, Losses, Stage
from kd2edge.kd.train import Trainer
from kd2edge.kd.way import resolve
from kd2edge.schema import Train


class Told(Terminal):
    """What the command line shows, its sentences kept."""

    def __init__(self) -> None:
        super().__init__(as_json=True)
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)
        super().say(sentence)


def train(job: Job, blocks: Blocks) -> None:
    """Train by the subject's whole schedule; `Done` ends it between two steps."""
    subject = SUBJECTS[job.subject]
    (stage,) = taught(job).stages()
    assert stage.name == STAGE
    data = _data(job, subject)
    job.folder.mkdir(parents=True, exist_ok=True)
    told, plan = Told(), _plan(job, subject)
    way = resolve(plan, plan.batch, plan.epochs * (len(data) // plan.batch), subject.size)
    blocks.notes = {"precision": way.precision, "compile": way.mode, "said": told.sentences}
    _counted(stage, blocks)
    with CHANGES.get(job.changed or "", contextlib.nullcontext)():
        tracker = trackers.open_tracker(("tensorboard",), job.folder, job.folder.name, told.say)
        with contextlib.closing(tracker):
            how, log = subject.preprocessing(), job.folder / "log.jsonl"
            Trainer(data, how, plan, job.seed, job.folder, log, told, tracker=tracker).run(stage)


def _plan(job: Job, subject: Subject) -> Train:
    changes: dict[str, Any] = {"device": job.device, "precision": job.precision, **OPTIONS.get(job.changed or "", {})}
    if not job.augment or job.changed == "tensor_augmentation":
        changes["augment"] = {}
    return subject.train(**changes)


def _counted(stage: Stage, blocks: Blocks) -> None:
    """Let a step begin where its losses are asked for, and keep their sum."""
    losses_of: Callable[[Batch], Losses] = stage.losses

    def losses(batch: Batch) -> Losses:
        blocks.begin()
        terms = losses_of(batch)
        blocks.seen(torch.stack([term.detach() for term in terms.values()]).sum())
        return terms

    stage.losses = losses


def _data(job: Job, subject: Subject) -> InMemory:
    images, labels = np.load(job.images), np.load(job.labels)
    kind = OneByOne if job.changed == "tensor_augmentation" else InMemory
    made = kind(images, labels, {}, [str(number) for number in range(job.classes)])
    if isinstance(made, OneByOne):
        made.moves = transforms(subject, normalised=False)[0]
    return made


class OneByOne(InMemory):
    """Images augmented one by one with PIL as they are read, ahead of the step, instead of together on the device."""

    moves: Callable[[Image.Image], Any]

    def read(self, index: Ints) -> Images:
        return np.stack([np.asarray(self.moves(Image.fromarray(image))) for image in np.asarray(self.images[index])])


def _holders(name: str) -> list[ModuleType]:
    """The modules of the trainer that have something by that name."""
    return [module for path, module in sys.modules.items() if path.startswith("kd2edge.kd") and hasattr(module, name)]


class _Contiguous:
    """torch, whose "channels last" is the plain layout."""

    channels_last = torch.contiguous_format

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def _plain_layout() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in _holders("torch"):
            stack.enter_context(patch.object(module, "torch", _Contiguous()))
        yield


@contextlib.contextmanager
def _slow_teacher() -> Iterator[None]:
    """The teacher as it is, in the precision of the student."""
    with contextlib.ExitStack() as stack:
        for module in _holders("quickened"):
            stack.enter_context(patch.object(module, "quickened", lambda *_, **__: contextlib.nullcontext(None)))
        yield


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    class Unfused(torch.optim.SGD):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **{**options, "fused": None})

    with patch.object(torch.optim, "SGD", Unfused):
        yield


@contextlib.contextmanager
def _without(module: ModuleType, name: str) -> Iterator[None]:
    """A module's context manager of that name does nothing."""
    with patch.object(module, name, lambda *_, **__: contextlib.nullcontext()):
        yield


CHANGES: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "channels_last": _plain_layout,
    "quick_teacher": _slow_teacher,
    "fused_teacher": partial(patch.object, quick_teacher, "fused", lambda *_: None),
    "fused": _unfused,
    "heap": partial(_without, heap, "kept"),
    "depthwise": partial(_without, depthwise, "in_float32"),
    "prelu": partial(patch.object, PReLU, "forward", nn.PReLU.forward),
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "bf16": {"precision": "fp32"},
    "compile": {"compile": "off"},
    "compiled": {"compile": "on"},
    "graphs": {"compile": "graphs"},
}
