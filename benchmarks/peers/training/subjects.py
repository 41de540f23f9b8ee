"""What is trained: a pair of nets, a method with the papers' setting, images, and the schedule of the training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.training.job import Job
from kd2edge.kd import net, weights
from kd2edge.kd.method import Lesson, Method, make
from kd2edge.kd.tasks import Task
from kd2edge.kd.way import Way, resolve
from kd2edge.schema import NetSpec, Plugin, Preprocessing, TaskName, Teacher, Train

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FACES_OF_LFW = 4038  # people in the training list that `recipes/faces_lfw.yaml` describes
STAGE = "student"  # the only stage of all these methods: its name is part of what decides the order of images
RECIPE = {"batch": 64, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step"}


@dataclass(frozen=True)
class Subject:
    """One row: `epochs` of `plan` are the papers', of which a few hundred steps are run; `block` is steps in a turn.

    `ablated` are the features without which kd2edge is timed too, or with which, where it leaves them out by itself.
    """

    name: str
    about: str
    kind: str
    size: tuple[int, int]
    classes: int
    student: dict[str, Any]
    method: dict[str, Any]
    plan: dict[str, Any]
    block: int
    teacher: dict[str, Any] | None = None
    weights: str | None = None
    task: TaskName = "classification"
    ablated: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")

    def train(self, **changes: Any) -> Train:
        """The section `train` of a recipe."""
        return Train.model_validate({**self.plan, **changes})

    def preprocessing(self) -> Preprocessing:
        constants = (CIFAR_MEAN, CIFAR_STD) if self.kind == "cifar" else ((0.5,) * 3, (0.5,) * 3)
        return Preprocessing(
            size=self.size, channels=3, color="RGB", mean=constants[0], std=constants[1], decoder="decoded beforehand"
        )

    def way(self, device: str, count: int, **changes: Any) -> Way:
        """How kd2edge computes it on so many images: what its recipe's `auto` comes to."""
        plan = self.train(device=device, **changes)
        return resolve(plan, plan.batch, plan.epochs * (count // plan.batch), self.size)

    def taught(self, seed: int, classes: int, published: Path | None) -> Method:
        """The method with its nets as they are before the first step: the same for the same seed, whoever trains."""
        shape = net.Shape(3, self.size, classes)
        teacher, spec = None, None
        if self.teacher is not None:
            spec = Teacher.model_validate(self.teacher)
            torch.manual_seed(1000 + seed)
            teacher = net.build(spec, shape)
            if published is not None:
                weights.load_into(teacher, str(published))
            net.freeze(teacher)
        lesson = Lesson(
            task=Task(self.task),
            shape=shape,
            student_spec=NetSpec.model_validate(self.student),
            teacher=teacher,
            teacher_spec=spec,
            plan=self.train(),
            seed=seed,
        )
        return make(Plugin.model_validate(self.method), lesson)


def taught(job: Job) -> Method:
    subject = SUBJECTS[job.subject]
    return subject.taught(job.seed, job.classes, job.weights)


def _resnet(arch: str, shortcut: str = "conv") -> dict[str, Any]:
    return {"model": {"name": "resnet_cifar", "arch": arch, "shortcut": shortcut}}


def _cifar(name: str, about: str, section: dict[str, Any], **more: Any) -> Subject:
    schedule = {"epochs": 240, "milestones": [150, 180, 210], "augment": {"crop_padding": 4, "flip": True}}
    given: dict[str, Any] = {
        "student": _resnet("20", "option_a"),
        "teacher": _resnet("56", "option_a"),
        "weights": "resnet56-4bfd9763.th",
        "size": (32, 32),
        "classes": 10,
        "block": 20,
        **more,
    }
    return Subject(name, about, "cifar", method=section, plan={**RECIPE, **schedule}, **given)


WIDE = {
    "student": _resnet("8x4"),
    "teacher": _resnet("32x4"),
    "weights": None,
    "devices": ("cuda",),
}
ABLATED = ("channels_last", "bf16", "quick_teacher", "fused_teacher", "tensor_augmentation", "fused", "heap")
_ALL = (
    _cifar("kd", "KD, ResNet-20 from ResNet-56", {"name": "kd"}, ablated=ABLATED),
    _cifar("th_kd", "TH-KD in the authors' code's form, ResNet-20 from ResNet-56", {"name": "th_kd", "form": "code"}),
    _cifar("sim_kd", "SimKD with factor 2, ResNet-20 from ResNet-56", {"name": "sim_kd", "factor": 2}),
    Subject(
        "arcface",
        "ArcFace, MobileFaceNet at 112x112",
        "faces",
        (112, 112),
        FACES_OF_LFW,
        student={
            "model": {"name": "mobilefacenet"},
            "neck": "gdc",
            "embedding": 512,
            "head": {"name": "arcface", "scale": 32, "margin": 0.3},
        },
        method={"name": "plain"},
        plan={**RECIPE, "epochs": 20, "lr": 0.01, "clip": 5.0, "milestones": [10, 16], "augment": {"flip": True}},
        block=4,
        task="verification",
        ablated=("channels_last", "bf16", "prelu", "depthwise", "tensor_augmentation", "fused", "heap"),
    ),
    _cifar("kd_wide", "KD, ResNet-8x4 from ResNet-32x4", {"name": "kd"}, **WIDE, ablated=ABLATED),
    _cifar("sim_kd_wide", "SimKD with factor 2, ResNet-8x4 from ResNet-32x4", {"name": "sim_kd", "factor": 2}, **WIDE),
)
SUBJECTS = {subject.name: subject for subject in _ALL}
