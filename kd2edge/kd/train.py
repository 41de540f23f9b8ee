"""The only training loop. It knows stages, not methods, and resumes bit-exactly.

Whatever is random is drawn from (seed, stage, epoch, step), never from a generator's history, so a resumed run sees the
same order, augmentation and dropout as one that was never interrupted.
"""

import json
import math
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd2edge import schema
from kd2edge.data import Split
from kd2edge.errors import Diverged
from kd2edge.files import append, write_atomic
from kd2edge.kd import checkpoint, devices, ranks, rows, store
from kd2edge.kd.augment import prepare
from kd2edge.kd.average import Average
from kd2edge.kd.method import Batch, Stage
from kd2edge.kd.recall import Recall
from kd2edge.kd.schedule import learning_rate, optimizer
from kd2edge.kd.stopping import stop_at_step
from kd2edge.progress import Progress


class Trainer:
    """Trains stages on one split, with its checkpoints and log in one folder.

    `folder/<stage>.safetensors` holds a finished stage, `folder/<stage>.partial.safetensors` an unfinished one; `log`
    gets one JSON line per epoch. Under `shared`, if given, finished stages are kept by their content, and with
    `remember` the embeddings of the teachers that stages name.
    """

    def __init__(
        self,
        data: Split,
        how: schema.Preprocessing,
        plan: schema.Train,
        seed: int,
        folder: Path,
        log: Path,
        progress: Progress,
        shared: Path | None = None,
        remember: bool = False,
    ) -> None:
        self.data, self.how, self.plan, self.seed = data, how, plan, seed
        self.folder, self.log, self.progress = folder, log, progress
        self.ranks = ranks.join()
        alone = self.ranks.count == 1
        self.shared, self.remember = (shared, remember) if alone else (None, False)

    def run(self, stage: Stage) -> None:
        """Train a stage to its end, or load it where an earlier process finished it.

        Raises `Diverged` on a non-finite loss, naming stage, epoch and step; KeyboardInterrupt after saving.
        """
        done = self.folder / f"{stage.name}.safetensors"
        if done.exists():
            stage.learner.load_state_dict(checkpoint.read(done)["learner"])
            self.progress.say(f"stage {stage.name}: finished earlier, taken from {done}")
            return
        if self.shared is None or stage.minimises is None:
            _Training(self, stage).run()
        else:
            self._run_once(stage, store.Store(self.shared))
        if self.ranks.first:
            checkpoint.write({"learner": stage.learner.state_dict()}, done)
            self.partial(stage).unlink(missing_ok=True)
        self.ranks.wait()
        if not self.ranks.first:  # whose batch norms have seen other images
            stage.learner.load_state_dict(checkpoint.read(done)["learner"])

    def _run_once(self, stage: Stage, found: store.Store) -> None:
        """Take the stage from the store if a run beside this one trained the very same; else train and store it."""
        training = _Training(self, stage)
        key = training.key()
        with found.claim(key, lambda: self.progress.say(f"stage {stage.name}: another run is training it; waiting")):
            if found.weights(key).exists():
                found.load(key, stage.learner)
                keep_log(self.log, stage.name, 0)
                lines = [json.dumps({**line, "stage": stage.name}) + "\n" for line in found.lines(key)]
                append(self.log, "".join(lines))
                self.progress.say(f"stage {stage.name}: trained by an earlier run, taken from {found.weights(key)}")
                return
            training.run()
            found.put(key, stage.learner, [line for line in log_lines(self.log) if line["stage"] == stage.name])

    def partial(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.partial.safetensors"


class _Training:
    """One stage in progress: its optimiser and where it stands (`epoch`, `step` within it)."""

    def __init__(self, trainer: Trainer, stage: Stage) -> None:
        plan = stage.schedule or trainer.plan
        self.trainer, self.stage, self.plan = trainer, stage, plan
        self.batch = min(plan.batch, len(trainer.data))
        trainer.ranks.require(self.batch, stage.learner)
        self.epochs = max(1, round(plan.epochs * stage.share)) if plan.epochs else 0
        self.steps = len(trainer.data) // self.batch
        self.device = devices.find(plan.device)
        self.precision = devices.precision(plan.precision, self.device)
        self.optimizer = optimizer(stage.learner, plan)
        self.epoch = self.step = 0
        self.sums: dict[str, float] = {}
        self.seconds = 0.0
        self.average: Average | None = None
        self.recall = self._recall()

    def key(self) -> str:
        """What the stage's result depends on, before it has begun."""
        stage, plan = self.stage, self.plan.model_dump(mode="json")
        return store.digest(stage.minimises, stage.learner, *stage.frozen, self.epochs, plan, self._stream())

    def _stream(self) -> str:
        """What decides which images each step shows, and in which arithmetic they are computed on."""
        trainer, plan = self.trainer, self.plan.model_dump(mode="json")
        facts = [plan["augment"], trainer.how.model_dump(mode="json"), self.batch, self.precision]
        facts += [] if self.device.type == "cpu" else [self.device.type]
        return store.digest(trainer.data, trainer.seed, self.stage.stream or self.stage.name, facts)

    def _recall(self) -> Recall | None:
        teacher, shared = self.stage.taught_by, self.trainer.shared
        if teacher is None or shared is None or not self.trainer.remember:
            return None
        return Recall(shared / "embeddings" / store.digest(teacher, self._stream()), self.steps)

    def run(self) -> None:
        with devices.placed(self.device, self.stage.learner, *self.stage.frozen):
            self.average = None if self.plan.ema is None else Average(self.stage.learner, self.plan.ema)
            self._restore()
            self.trainer.progress.start(f"{self.trainer.folder.name}: {self.stage.name}", self.epochs * self.steps)
            self.trainer.progress.advance(self.epoch * self.steps + self.step)
            self._epochs()
            if self.average is not None:
                self.average.ship()

    def _epochs(self) -> None:
        with stop_at_step() as stop:
            while self.epoch < self.epochs:
                self._epoch(stop)
                self._log()
                self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, {}, 0.0
                if self.epoch < self.epochs:
                    self._save()

    def _epoch(self, stop: threading.Event) -> None:
        self.stage.learner.train()
        for module in self.stage.frozen:
            module.eval()
        order = np.random.default_rng(self._entropy(self.epoch)).permutation(len(self.trainer.data))
        began = time.perf_counter()
        for images, labels in self._batches(order):
            self._step(images, labels)
            self.step += 1
            if self.trainer.ranks.any(stop.is_set()):
                self.seconds += time.perf_counter() - began
                self._save()
                raise KeyboardInterrupt
        self.seconds += time.perf_counter() - began

    def _step(self, images: Tensor, labels: Tensor) -> None:
        apart = () if self.trainer.ranks.first else (self.trainer.ranks.number,)  # other chances on every rank
        entropy = self._entropy(self.epoch, self.step, *apart)
        torch.manual_seed(entropy[0] ^ zlib.crc32(repr(entropy).encode()))
        generator = torch.Generator().manual_seed(zlib.crc32(repr(entropy).encode()))
        ready = prepare(images.to(self.device), self.plan.augment, self.trainer.how, generator)
        batch = self._batch(ready, labels.to(self.device))
        rate = learning_rate(self.plan, self.epoch + self.step / self.steps, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        began = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            losses = self.stage.losses(batch)
        terms = torch.stack(list(losses.values()))
        means = dict(zip(losses, self.trainer.ranks.mean(terms.detach()).tolist(), strict=True))
        self._require_finite(means)
        self.optimizer.zero_grad(set_to_none=True)
        terms.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
        self.trainer.ranks.average(self.stage.learner.parameters())
        if self.plan.clip is not None:
            rows.clip(self.stage.learner.parameters(), self.plan.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        for name, value in {"loss": sum(means.values()), **means}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        rate = self.batch / (time.perf_counter() - began)
        self.trainer.progress.advance(
            1, epoch=f"{self.epoch + 1}/{self.epochs}", loss=self.sums["loss"] / (self.step + 1), images_per_second=rate
        )

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        recall, step = self.recall, self.step
        if recall is None:
            return Batch(images, labels)
        known = recall.embedding(self.epoch, step)
        known = None if known is None else known.to(self.device)
        return Batch(images, labels, known, lambda found: recall.keep(step, found))

    def _require_finite(self, losses: dict[str, float]) -> None:
        if not math.isfinite(sum(losses.values())):
            bad = ", ".join(f"{name} = {value:g}" for name, value in losses.items())
            where = f"stage {self.stage.name}, epoch {self.epoch + 1}, step {self.step + 1}"
            raise Diverged(
                f"The loss is not finite in {where} ({bad}).",
                "lower train.lr, add train.warmup or set train.clip; what was saved before is kept",
            )

    def _batches(self, order: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from the current step on, each read while the one before it is trained on."""
        data = self.trainer.data
        starts = range(self.step * self.batch, self.steps * self.batch, self.batch)
        indices = [self.trainer.ranks.part(order[start : start + self.batch]) for start in starts]
        if not indices:
            return  # it was stopped after the epoch's last step
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(data.read, indices[0])
            for position, index in enumerate(indices):
                images = ahead.result()
                if position + 1 < len(indices):
                    ahead = reader.submit(data.read, indices[position + 1])
                yield torch.from_numpy(images), torch.from_numpy(data.labels[index])

    def _entropy(self, *counters: int) -> list[int]:
        stream = self.stage.stream or self.stage.name
        return [self.trainer.seed, zlib.crc32(stream.encode()), *counters]

    def _save(self) -> None:
        tree = {
            "learner": self.stage.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "seconds": self.seconds,
            "average": None if self.average is None else self.average.state_dict(),
        }
        if self.trainer.ranks.first:
            checkpoint.write(tree, self.trainer.partial(self.stage))
        self.trainer.ranks.wait()

    def _restore(self) -> None:
        path = self.trainer.partial(self.stage)
        if path.exists():
            tree = checkpoint.read(path)
            self.stage.learner.load_state_dict(tree["learner"])
            self.optimizer.load_state_dict(tree["optimizer"])
            self.epoch, self.step = tree["epoch"], tree["step"]
            self.sums, self.seconds = tree["sums"], tree["seconds"]
            if self.average is not None:
                self.average.load_state_dict(tree["average"])
        self.trainer.ranks.wait()  # before rank 0 writes anything anew
        if self.trainer.ranks.first:
            keep_log(self.trainer.log, self.stage.name, self.epoch)

    def _log(self) -> None:
        if not self.trainer.ranks.first:
            return
        figures = {name: value / self.steps for name, value in self.sums.items()}
        line: dict[str, Any] = {"stage": self.stage.name, "epoch": self.epoch + 1, **figures}
        line |= self.stage.watch() if self.stage.watch else {}
        line |= {"lr": self.optimizer.param_groups[0]["lr"], "images": self.steps * self.batch}
        line |= {"seconds": round(self.seconds, 3), "precision": self.precision}
        append(self.trainer.log, json.dumps(line) + "\n")


def keep_log(log: Path, stage: str, epochs: int) -> None:
    """Drop a stage's lines beyond so many epochs, which will be trained again, and a last one that a kill has torn."""
    kept = [line for line in log_lines(log) if line["stage"] != stage or line["epoch"] <= epochs]
    write_atomic(log, "".join(json.dumps(line) + "\n" for line in kept).encode())


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a training log, without a last one that a kill has torn."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
