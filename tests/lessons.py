"""Methods on nets that are made in no time, and the losses' formulas written anew in numpy."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.special import log_softmax, rel_entr, softmax

from kd2edge import shelves
from kd2edge.kd import method, net
from kd2edge.kd.method import Batch, Lesson, Method
from kd2edge.kd.methods.sim_kd import SimKD
from kd2edge.kd.tasks import Task
from kd2edge.schema import NetSpec, Plugin, TaskName, Teacher, Train
from tests import tiny

SHAPE = net.Shape(channels=1, size=(16, 16), classes=5)
PLAN = {"epochs": 1, "batch": 8, "lr": 0.01}
HEADS: dict[TaskName, str] = {"classification": "linear", "verification": "arcface"}
TINY = tiny.net((8, 8, 16))
Latency = Callable[[net.Net], float]


def spec(section: dict[str, object]) -> NetSpec:
    return NetSpec.model_validate(section)


def model(name: str, arch: str) -> NetSpec:
    return spec({"model": {"name": name, "arch": arch}})


def trained(made: net.Net) -> net.Net:
    """A frozen net whose running statistics and head are those of no untrained net."""
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_var.fill_(2.0)  # type: ignore[union-attr]
    made.head.weight.data *= 20
    return net.freeze(made)


def make(name: str, task: TaskName, widths: tuple[int, int, int] = (8, 8, 16), **options: object) -> Method:
    """Any method of the shelf, with a frozen teacher of the tiny net's shape."""
    embedding = 12 if task == "verification" else None
    section = tiny.net((8, 8, 16), embedding, HEADS[task])
    torch.manual_seed(3)
    teacher = trained(net.build(spec(section), SHAPE))
    teacher_spec = Teacher.model_validate({**section, "train": PLAN})
    student = spec(tiny.net(widths, embedding, HEADS[task]))
    lesson = Lesson(Task(task), SHAPE, student, teacher, teacher_spec, Train.model_validate(PLAN), seed=3)
    return method.make(Plugin.model_validate({"name": name, **options}), lesson)


def sim_kd(
    student: NetSpec | net.Net | None = None,
    teacher: NetSpec | net.Net | None = None,
    task: TaskName = "classification",
    shape: net.Shape = SHAPE,
    latency: Latency | None = None,
    **options: object,
) -> SimKD:
    section = spec(tiny.net((8, 8, 16), 12 if task == "verification" else None, HEADS[task]))
    torch.manual_seed(3)
    if not isinstance(teacher, net.Net):
        teacher = trained(net.build(teacher or section, shape))
    lesson = Lesson(Task(task), shape, section, teacher, seed=3, latency=latency)
    if student is not None:
        lesson = replace(lesson, student=student if isinstance(student, net.Net) else net.build(student, shape))
    return SimKD(shelves.configure(SimKD.Config, dict(options), "method sim_kd"), lesson)


def batch(seed: int = 0, count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 1, 16, 16, generator=generator), torch.arange(count) % SHAPE.classes)


def by_formula(given: int, wanted: int, factor: int) -> int:
    hidden = wanted // factor
    return given * hidden + 9 * hidden**2 + hidden * wanted + 4 * hidden + 2 * wanted


def outputs(made: Method, at: Batch) -> tuple[net.Out, net.Out]:
    """What student and teacher make of a batch."""
    with torch.no_grad():
        return made.student(at.images), made.teacher(at.images)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def divergence(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    return float(tau**2 * rel_entr(softmax(teacher / tau, 1), softmax(student / tau, 1)).sum(1).mean())
