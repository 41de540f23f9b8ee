"""Recipe → nets, data, method → training → ONNX: everything a run is asked to make, comparisons included."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd2edge import artifact
from kd2edge.data import Source, Split, normalize, open_source
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.kd import elastic, net, ranks, shards, store, to_onnx, trackers, validate, weights
from kd2edge.kd.centres import rebuild
from kd2edge.kd.method import Batch, Lesson, Losses, Method, Stage, make
from kd2edge.kd.spans import NONE as UNMEASURED
from kd2edge.kd.spans import Spans
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Judge, Trainer
from kd2edge.progress import Progress
from kd2edge.run import Run
from kd2edge.schema import Plugin, Preprocessing, Recipe, Teacher

VERB = "distill"
STUDENT = "fp32"
PROBE_IMAGES = 64
SHARED = ".shared"  # beside the runs of one folder: what one has trained, another takes over


def distill(recipe: Recipe, run: Run, progress: Progress, spans: Spans = UNMEASURED) -> None:
    """Train what the recipe asks for and enter each net, as ONNX, into the run; `spans` measures the trainings.

    Roles: `teacher`, `fp32` (the distilled student that would ship), and one per name in `recipe.compare`. What an
    earlier process finished is kept. Raises `UserError` for anything the recipe's author can mend.
    """
    first = ranks.join().first
    with trackers.telling(recipe, run.path, progress.say, first) as tracker, elastic.lost():
        work = Work.open(recipe, run, progress)
        work.tracker, work.spans = tracker, spans
        teacher = work.teacher()
        for role, method in ((STUDENT, recipe.method), *((name, Plugin(name=name)) for name in recipe.compare)):
            work.student(role, method, teacher)


@dataclass
class Work:
    """A recipe being worked on in its run: the data it learns from, and the nets it makes."""

    recipe: Recipe
    run: Run
    progress: Progress
    source: Source
    train: Split
    how: Preprocessing
    shape: net.Shape
    task: Task
    val: Split | None = None
    tracker: trackers.Tracker = trackers.NONE
    spans: Spans = UNMEASURED

    @classmethod
    def open(cls, recipe: Recipe, run: Run, progress: Progress) -> "Work":
        """Open the data of a run that this process holds the lock of, or follows the one that does."""
        for left in run.path.rglob(".*.part") if ranks.join().first else ():
            left.unlink()  # by a write that a kill cut short
        source = open_source(recipe.data.model_dump())
        train, how = source.split("train"), source.preprocessing()
        if len(train.classes) < 2:
            raise UserError(f"There is a single class to learn, {train.classes[0]!r}.", "name at least two")
        if recipe.train.batch > len(train):
            progress.say(f"the batch of {recipe.train.batch} is cut to the {len(train)} training images")
        shape, task, together = net.Shape(how.channels, how.size, len(train.classes)), Task(recipe.task), ranks.join()
        shards.require(recipe, together)
        val = None if recipe.validation is None else validate.required(source.split("val"), train, task)
        together.require_same("training data", train.labels, np.frombuffer(repr(train.classes).encode(), np.uint8))
        return cls(recipe, run, progress, source, train, how, shape, task, val)

    def teacher(self) -> net.Net | None:
        """The frozen teacher, from its weights or trained now; entered into the run as `teacher`."""
        spec = self.recipe.teacher
        if spec is None:
            return None
        teacher = self._lesson(None).fresh_teacher(spec.seed)
        centres = spec.head_from == "centres"
        if spec.weights is not None:
            loaded = weights.load_into(teacher, spec.weights, headless=centres)
            self.progress.say(f"teacher: weights {loaded.name}")
        if centres:
            self.progress.say("teacher: its classifier is rebuilt from class centres of the training images")
            device = (spec.train or self.recipe.train).device
            rebuild(teacher, self.train, self.how, self._store(), self.progress, device)
        if spec.weights is None and not centres and (spec.train is not None or not is_ready(teacher)):
            self._train_teacher(teacher, spec)
        net.freeze(teacher)
        rebuilt = {"head": f"rebuilt from class centres of its embeddings on {len(self.train):,} training images"}
        self._finish("teacher", teacher, **(rebuilt if centres else {}))
        ranks.join().require_same("teachers", teacher)
        self._split(teacher)
        return teacher

    def student(self, role: str, method: Plugin, teacher: net.Net | None) -> None:
        """Train a student by one method and enter it into the run under `role`; all roles start alike."""
        learning = self.learned(role, method, teacher)
        for name, exhibit in learning.exhibits().items():
            self._finish(name if role == STUDENT else f"{role}_{name}", exhibit, method=method.name)
        account = learning.account()
        for line in told(account):
            self.progress.say(f"{role}: {line}")
        self._finish(role, learning.deployable(), method=method.name, **account)

    def learned(self, role: str, method: Plugin, teacher: net.Net | None) -> Method:
        """A method with its stages done: trained now, or taken from where an earlier process finished them."""
        lesson = self._lesson(teacher)
        self._split(lesson.student)
        learning = make(method, lesson)
        judge = self._judge(learning)
        trainer = self.trainer(role, self.recipe.seed, judge)
        for stage in learning.stages():
            trainer.run(stage if judge is None else judge.named(stage))
        return learning

    def _split(self, made: net.Net) -> None:
        """Where the student's head says so, leave this process its share of a net's classes."""
        if self.recipe.student.head.sharded:
            shards.split(made.head, ranks.join())

    def _judge(self, learning: Method) -> validate.Validator | None:
        wanted, say = self.recipe.validation, self.progress.say
        if self.val is None or wanted is None:
            return None
        return validate.Validator(learning, self.val, self.how, wanted.every, ranks.join(), say, self.spans)

    def _lesson(self, teacher: net.Net | None) -> Lesson:
        recipe = self.recipe
        return Lesson(
            task=self.task,
            shape=self.shape,
            student_spec=recipe.student,
            teacher=teacher,
            teacher_spec=recipe.teacher,
            plan=recipe.train,
            seed=recipe.seed,
            latency=self._latency,
            student_weights=recipe.student.weights,
        )

    def _latency(self, candidate: net.Net) -> float:
        """Median ms of one image in the exported graph, on one thread of this machine; kept, so that a resumed run that
        chose a net by it chooses the same again."""
        path, together = self.run.path / "train" / "latency.json", ranks.join()

        def known() -> dict[str, float]:
            return json.loads(path.read_bytes()) if path.exists() else {}

        key = store.digest([[name, list(tensor.shape)] for name, tensor in candidate.state_dict().items()])
        if together.first and key not in known():
            images = normalize(self.train.read(np.arange(2)), self.how)
            measured = to_onnx.latency(candidate, self.task.output, images)
            write_atomic(path, json.dumps({**known(), key: measured}).encode())
        together.wait()
        return known()[key]

    def _train_teacher(self, teacher: net.Net, spec: Teacher) -> None:
        if spec.train is None:
            raise UserError(
                "The teacher has neither weights with a classifier nor a schedule to train it by.",
                "set teacher.weights, teacher.train or teacher.head_from: centres",
            )

        def losses(batch: Batch) -> Losses:
            return {"ce": self.task.lesson(teacher, batch.images, batch.labels)}

        seed = self.recipe.seed if spec.seed is None else spec.seed
        stage = Stage("teacher", teacher, losses, schedule=spec.train, minimises="cross-entropy")
        self.trainer("teacher", seed).run(stage)

    def trainer(self, role: str, seed: int, judge: Judge | None = None) -> Trainer:
        """What trains stages on the recipe's data, their files in the run's folder for `role`."""
        folder, log = self.run.path / "train" / role, self.run.path / "log" / f"{role}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(exist_ok=True)
        shared = self._shared()
        remember = self.recipe.teacher is not None and self.recipe.teacher.remember
        return Trainer(
            self.train,
            self.how,
            self.recipe.train,
            seed,
            folder,
            log,
            self.progress,
            shared,
            remember,
            tracker=trackers.Under(role, self.tracker),
            spans=self.spans,
            judge=judge,
        )

    def _shared(self) -> Path | None:
        """The folder in which runs beside this one find what it made; None where it cannot be written."""
        place = self.run.path.absolute().parent
        writable = os.access(place / SHARED if (place / SHARED).exists() else place, os.W_OK)
        return place / SHARED if writable else None

    def _store(self) -> store.Store | None:
        shared = self._shared()
        return None if shared is None or ranks.join().count > 1 else store.Store(shared)

    def _finish(self, role: str, trained: net.Net, **details: Any) -> None:
        """Weights, ONNX, probe and manifests of a trained net, unless the ledger shows them done."""
        trained = shards.whole(trained, ranks.join())
        if not ranks.join().first:
            return
        if role in self.run.files("onnx") and self.run.files("onnx")[role].is_file():
            return
        self.progress.say(f"{role}: exporting to ONNX and comparing with torch")
        trained.eval()
        saved = weights.write(trained, self.run.path / f"{role}.safetensors")
        fields = {"role": role, "verb": VERB, "task": self.task.name, "output": self.task.output}
        origin = self.run.origin
        made_of = {"parents": (origin.sha256,), "lineage": (origin,)}
        parent = artifact.describe(saved, kind="weights", details=details, **made_of, **fields)
        index = self._probe_index()
        images = normalize(self.train.read(index), self.how)
        path = self.run.path / f"{role}.onnx"
        reference, parity = to_onnx.export(trained, self.task.output, images, path)
        _write_probe(self.run.path / f"{role}.probe.npz", images, self.train.labels[index], reference)
        made = artifact.describe(
            path,
            kind="onnx",
            parents=(parent.manifest.sha256,),
            lineage=artifact.ancestors(parent),
            classes=tuple(self.train.classes) if self.task.output == "logits" else None,
            preprocessing=self.how,
            data=self.recipe.data,
            parity=vars(parity),
            details=details,
            versions={"torch": torch.__version__},
            **fields,
        )
        self.run.add(parent, VERB)
        self.run.add(made, VERB)

    def _probe_index(self) -> np.ndarray:
        """Training images, chosen by the recipe's seed; never test images."""
        order = np.random.default_rng(self.recipe.seed).permutation(len(self.train))
        return order[: min(PROBE_IMAGES, len(order))]


def is_ready(teacher: net.Net) -> bool:
    """Whether a teacher came trained, classifier and all, for these very classes."""
    return isinstance(teacher.backbone, net.Backbone) and teacher.backbone.ready


def told(account: Mapping[str, Any]) -> Iterator[str]:
    """What a method says about what it ships, in lines for people; its warning last."""
    for name, value in account.items():
        if name != "warning":
            yield f"{name.replace('_', ' ')} {_figures(value)}"
    if "warning" in account:
        yield str(account["warning"])


def _figures(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_figures(item)}" for name, item in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write_probe(path: Path, inputs: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> None:
    """Inputs, labels and torch's outputs, for whoever wants to compare a copy of the model elsewhere."""
    write_atomic(path, lambda file: np.savez_compressed(file, inputs=inputs, labels=labels, reference=reference))
