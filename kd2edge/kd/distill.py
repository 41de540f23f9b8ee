"""Recipe → nets, data, method → training → ONNX: everything a run is asked to make, comparisons included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd2edge import artifact, shelves
from kd2edge.data import Source, Split, normalize, open_source
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.kd import net, to_onnx, weights
from kd2edge.kd.method import Batch, Losses, Method, Stage
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer
from kd2edge.progress import Progress
from kd2edge.run import Run
from kd2edge.schema import Plugin, Preprocessing, Recipe, Teacher

VERB = "distill"
STUDENT = "fp32"
PROBE_IMAGES = 64


def distill(recipe: Recipe, run: Run, progress: Progress) -> None:
    """Train what the recipe asks for and enter each net, as ONNX, into the run.

    Roles: `teacher`, `fp32` (the distilled student that would ship), and one per name in `recipe.compare`. What an
    earlier process finished is kept. Raises `UserError` for anything the recipe's author can mend.
    """
    work = _Work.open(recipe, run, progress)
    teacher = work.teacher()
    for role, method in ((STUDENT, recipe.method), *((name, Plugin(name=name)) for name in recipe.compare)):
        work.student(role, method, teacher)


@dataclass
class _Work:
    recipe: Recipe
    run: Run
    progress: Progress
    source: Source
    train: Split
    how: Preprocessing
    shape: net.Shape
    task: Task

    @classmethod
    def open(cls, recipe: Recipe, run: Run, progress: Progress) -> "_Work":
        source = open_source(recipe.data.model_dump())
        train, how = source.split("train"), source.preprocessing()
        if recipe.train.batch > len(train):
            progress.say(f"the batch of {recipe.train.batch} is cut to the {len(train)} training images")
        shape = net.Shape(how.channels, how.size, len(train.classes))
        return cls(recipe, run, progress, source, train, how, shape, Task(recipe.task))

    def teacher(self) -> net.Net | None:
        """The frozen teacher, from its weights or trained now; entered into the run as `teacher`."""
        spec = self.recipe.teacher
        if spec is None:
            return None
        torch.manual_seed(self.recipe.seed)
        teacher = net.build(spec, self.shape)
        if spec.weights is not None:
            self.progress.say(f"teacher: weights {weights.load_into(teacher, spec.weights).name}")
        if spec.weights is None and (spec.train is not None or not is_ready(teacher)):
            self._train_teacher(teacher, spec)
        net.freeze(teacher)
        self._finish("teacher", teacher)
        return teacher

    def student(self, role: str, method: Plugin, teacher: net.Net | None) -> None:
        """Train a student by one method and enter it into the run under `role`; all roles start alike."""
        plugin = shelves.load(shelves.METHODS, method.name, Method)
        config = shelves.configure(plugin.Config, method.options, f"method {method.name}")
        torch.manual_seed(self.recipe.seed)
        student = net.build(self.recipe.student, self.shape)
        learning = plugin(config, self.task, self.shape, student, teacher if plugin.needs_teacher else None)
        trainer = self._trainer(role)
        for stage in learning.stages():
            trainer.run(stage)
        self._finish(role, learning.deployable(), method=method.name)

    def _train_teacher(self, teacher: net.Net, spec: Teacher) -> None:
        if spec.train is None:
            raise UserError(
                "The teacher has neither weights nor a schedule to train it by.", "set teacher.weights or teacher.train"
            )

        def losses(batch: Batch) -> Losses:
            return {"ce": self.task.supervised(teacher, teacher(batch.images), batch.labels)}

        self._trainer("teacher").run(Stage("teacher", teacher, losses, schedule=spec.train))

    def _trainer(self, role: str) -> Trainer:
        folder, log = self.run.path / "train" / role, self.run.path / "log" / f"{role}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(exist_ok=True)
        return Trainer(self.train, self.how, self.recipe.train, self.recipe.seed, folder, log, self.progress)

    def _finish(self, role: str, trained: net.Net, **details: Any) -> None:
        """Weights, ONNX, probe and manifests of a trained net, unless the ledger shows them done."""
        if role in self.run.files("onnx") and self.run.files("onnx")[role].is_file():
            return
        self.progress.say(f"{role}: exporting to ONNX and comparing with torch")
        trained.eval()
        saved = weights.write(trained, self.run.path / f"{role}.safetensors")
        fields = {"role": role, "verb": VERB, "task": self.task.name, "output": self.task.output}
        parent = artifact.describe(saved, kind="weights", details=details, **fields)
        index = self._probe_index()
        images = normalize(self.train.read(index), self.how)
        path = self.run.path / f"{role}.onnx"
        reference, parity = to_onnx.export(trained, self.task.output, images, path)
        _write_probe(self.run.path / f"{role}.probe.npz", images, self.train.labels[index], reference)
        made = artifact.describe(
            path,
            kind="onnx",
            parents=(parent.manifest.sha256,),
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


def _write_probe(path: Path, inputs: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> None:
    """Inputs, labels and torch's outputs, for whoever wants to compare a copy of the model elsewhere."""
    write_atomic(path, lambda file: np.savez_compressed(file, inputs=inputs, labels=labels, reference=reference))
