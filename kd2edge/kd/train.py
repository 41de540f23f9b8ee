"""The only training loop. It knows stages, not methods, and resumes bit-exactly.

Whatever is random is drawn from (seed, stage, epoch, step), never from a generator's history, so a resumed run sees the
same order, augmentation and dropout as one that was never interrupted.
"""

import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kd2edge import schema
from kd2edge.data import Ints, Split
from kd2edge.files import append
from kd2edge.kd import ranks, shards, store, trackers
from kd2edge.kd.feed import Feed
from kd2edge.kd.log import figures, keep_log, log_lines, take_over
from kd2edge.kd.method import Stage
from kd2edge.kd.recall import Recall, Whole
from kd2edge.kd.schedule import learning_rate
from kd2edge.kd.spans import NONE, Spans
from kd2edge.kd.step import Step, parts
from kd2edge.kd.stopping import stop_at_step
from kd2edge.kd.tally import Tally
from kd2edge.kd.way import about, computing, resolve
from kd2edge.progress import Progress

Judge = Callable[[Stage, int], Mapping[str, float]]
TELL_EVERY = 50  # steps between two times that a GPU is waited for, and that a tracker is told
NEAR = ("cpu",)  # devices for which there is no waiting
READ_SECONDS = 0.1  # between two times that a near one is read nevertheless: to know the losses takes 50 µs


class Trainer:
    """Trains stages on one split, with its checkpoints and log in one folder.

    `folder/<stage>.safetensors` holds a finished stage, `folder/<stage>.partial.safetensors` an unfinished one, written
    after each epoch and, within one, every `save_seconds`; `log` gets one JSON line per epoch. Under `shared`, if
    given, finished stages are kept by their content, and with `remember` the embeddings of the teachers that stages
    name. After each epoch `judge(stage, epoch)`, counted from 1, gives further figures for its line, the learner being
    what would ship.
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
        *,
        tracker: trackers.Tracker = trackers.NONE,
        spans: Spans = NONE,
        judge: Judge | None = None,
        save_seconds: float = 600.0,
    ) -> None:
        self.data, self.how, self.plan, self.seed = data, how, plan, seed
        self.folder, self.log, self.progress = folder, log, progress
        self.ranks = ranks.join()
        alone = self.ranks.count == 1
        self.shared, self.remember = (shared, remember) if alone else (None, False)
        self.tracker, self.spans = tracker if self.ranks.first else trackers.NONE, spans
        self.judge, self.save_seconds = judge, save_seconds

    def run(self, stage: Stage) -> None:
        """Train a stage to its end, or load it where an earlier process finished it.

        Raises `Diverged` on a non-finite loss, naming stage, epoch and step; KeyboardInterrupt after saving.
        """
        done = self.folder / f"{stage.name}.safetensors"
        if done.exists():
            shards.load(stage.learner, done)
            self.progress.say(f"stage {stage.name}: finished earlier, taken from {done}")
            return
        if self.shared is None or stage.minimises is None:
            _Training(self, stage).run()
        else:
            self._run_once(stage, store.Store(self.shared))
        shards.finish(stage.learner, done, self.partial(stage), self.ranks)
        if not self.ranks.first:  # whose batch norms have seen other images
            shards.load(stage.learner, done)

    def _run_once(self, stage: Stage, found: store.Store) -> None:
        """Take the stage from the store if a run beside this one trained the very same; else train and store it."""
        training = _Training(self, stage)
        key = training.key()
        with found.claim(key, lambda: self.progress.say(f"stage {stage.name}: another run is training it; waiting")):
            if found.weights(key).exists():
                found.load(key, stage.learner)
                take_over(self.log, stage.name, found.lines(key), self.tracker, training.steps)
                self.progress.say(f"stage {stage.name}: trained by an earlier run, taken from {found.weights(key)}")
                return
            training.run()
            found.put(key, stage.learner, [line for line in log_lines(self.log) if line["stage"] == stage.name])

    def partial(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.partial.safetensors"


class _Training:
    """One stage in progress, and where it stands: `epoch`, and `step` within it."""

    steps_by: Step
    feed: Feed
    losses: Tally

    def __init__(self, trainer: Trainer, stage: Stage) -> None:
        plan = stage.schedule or trainer.plan
        self.trainer, self.stage, self.plan = trainer, stage, plan
        batch = min(plan.batch, len(trainer.data))
        trainer.ranks.require(batch, stage.learner)
        parts(batch, trainer.ranks, plan.accumulate)
        self.epochs = max(1, round(plan.epochs * stage.share)) if plan.epochs else 0
        self.steps = len(trainer.data) // batch
        self.way = resolve(plan, batch, self.epochs * self.steps, trainer.how.size)
        self.epoch = self.step = 0
        self.sums: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.seconds = self.began = 0.0
        self.saved, self.told = time.monotonic(), (0.0, 0)
        self.recall = self._recall()

    def key(self) -> str:
        """What the stage's result depends on, before it has begun."""
        stage, plan = self.stage, self.plan.model_dump(mode="json")
        return store.digest(stage.minimises, stage.learner, *stage.frozen, self.epochs, plan, self._stream())

    def _stream(self) -> str:
        """What decides which images each step shows, and in which arithmetic they are computed on."""
        trainer, plan, way = self.trainer, self.plan.model_dump(mode="json"), self.way
        facts = [plan["augment"], plan["accumulate"], trainer.how.model_dump(mode="json"), *way.facts()]
        return store.digest(trainer.data, trainer.seed, self.stage.stream or self.stage.name, facts)

    def _recall(self) -> Recall | None:
        teacher, shared = self.stage.taught_by, self.trainer.shared
        if teacher is None or shared is None or not self.trainer.remember:
            return None
        if self.plan.augment == schema.Augment():
            part = len(parts(self.way.batch, self.trainer.ranks, self.plan.accumulate)[0])
            return Whole(shared / "embeddings", teacher, self.trainer.data, self.trainer.how, self.way, part)
        return Recall(shared / "embeddings" / store.digest(teacher, self._stream()), self.steps)

    def run(self) -> None:
        progress = self.trainer.progress
        with ExitStack() as during:
            self._open(during)
            self._restore()
            progress.start(f"{self.trainer.folder.name}: {self.stage.name}", self.epochs * self.steps)
            progress.advance(self._done())
            with stop_at_step() as stop:
                while self.epoch < self.epochs:
                    self._epoch(stop)
                    self._log()
                    self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, {}, 0.0
                    stopping = self.trainer.ranks.any(stop.is_set())  # as while it was judged
                    if stopping or self.epoch < self.epochs:
                        self._save()
                    if stopping:
                        raise KeyboardInterrupt
            if self.steps_by.average is not None:
                self.steps_by.average.ship()

    def _open(self, during: ExitStack) -> None:
        trainer, stage, way, enter = self.trainer, self.stage, self.way, during.enter_context
        joined = trainer.ranks if self.plan.sync_batch_norm else None
        enter(computing(stage, way, trainer.data, trainer.how, joined, trainer.progress.say))
        told = about(stage, way, trainer.data, trainer.how, self.plan, trainer.ranks, self.recall is not None)
        enter(trainer.spans.attach(stage.frozen, stage.learner, told, trainer.folder.name))
        if isinstance(self.recall, Whole):
            self.recall.fill(trainer.progress.say)
        self.steps_by = Step(stage, self.plan, trainer.how, way, trainer.ranks, trainer.spans)
        self.feed = Feed(trainer.data, way.device)

    def _epoch(self, stop: threading.Event) -> None:
        trainer, batch, spans = self.trainer, self.way.batch, self.trainer.spans
        self.stage.learner.train()
        for module in self.stage.frozen:
            module.eval()
        order = np.random.default_rng(self._entropy(self.epoch)).permutation(len(trainer.data))
        starts = range(self.step * batch, self.steps * batch, batch)
        indices = [trainer.ranks.part(order[start : start + batch]) for start in starts]
        self.losses = Tally(self._place(), self.sums)
        self.began = time.perf_counter()
        self.told = (self.began, self.step)
        with closing(self.feed.batches(indices)) as batches:
            for index in indices:
                with spans.of("data"):
                    images, labels = next(batches)
                self._step(index, images, labels)
                self._tell()
                self._attend(stop)
        self._read(to_save=True)

    def _step(self, index: Ints, images: Tensor, labels: Tensor) -> None:
        known = None if self.recall is None else self.recall.embedding(self.epoch, self.step, index)
        known = None if known is None else known.to(self.way.device)
        rate = learning_rate(self.plan, self.epoch + self.step / self.steps, self.epochs)
        outcome = self.steps_by(images, labels, self._entropy(self.epoch, self.step), rate, known)
        if self.recall is not None and outcome.embedding is not None:
            self.recall.keep(self.step, outcome.embedding)
        self.losses.add(self.step, outcome.names, outcome.terms)
        self.step += 1

    def _entropy(self, *counters: int) -> list[int]:
        stream = self.stage.stream or self.stage.name
        return [self.trainer.seed, zlib.crc32(stream.encode()), *counters]

    def _place(self) -> str:
        return f"stage {self.stage.name}, epoch {self.epoch + 1}"

    def _done(self) -> int:
        return self.epoch * self.steps + self.step

    def _read(self, to_save: bool = False) -> None:
        """Take the losses over from the device, and the time that they took; what is to be saved is looked at too."""
        with self.trainer.spans.of("waiting"):
            self.sums = self.losses.read()
            if to_save:
                self.steps_by.require_finite(f"{self._place()}, step {self.step}")
        now = time.perf_counter()
        self.seconds, self.began = self.seconds + now - self.began, now

    def _tell(self) -> None:
        due, since = self._done() % TELL_EVERY == 0, self.told
        if due or (self.way.device.type in NEAR and time.perf_counter() - self.began >= READ_SECONDS):
            self._read()
            rate = (self.step - since[1]) * self.way.batch / (self.began - since[0])
            self.figures = {"loss": self.sums["loss"] / self.step, "images_per_second": rate}
        self.trainer.progress.advance(1, epoch=f"{self.epoch + 1}/{self.epochs}", **self.figures)
        if due:
            self.told = (self.began, self.step)
            means = {name: value / self.step for name, value in self.sums.items()}
            now = {**means, **self.figures, "lr": self.steps_by.optimizer.param_groups[0]["lr"]}
            told = {f"steps/{name}": value for name, value in now.items()}
            self.trainer.tracker.tell(self.stage.name, self._done(), told)

    def _attend(self, stop: threading.Event) -> None:
        """Between two steps: save where it is time to, and stop where a process was asked to; all do so together."""
        ranks, alone = self.trainer.ranks, self.trainer.ranks.count == 1
        if not (alone or self.way.device.type in NEAR or self._done() % TELL_EVERY == 0):
            return
        late = ranks.first and time.monotonic() - self.saved >= self.trainer.save_seconds
        if not ranks.any(stop.is_set() or late):
            return
        stopping = ranks.any(stop.is_set())
        self._read(to_save=True)
        self._save()
        if stopping:
            raise KeyboardInterrupt

    def _save(self) -> None:
        with self.trainer.spans.of("saving"):
            where = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "seconds": self.seconds}
            tree = {**self.steps_by.state_dict(), **where}
            shards.write(tree, self.trainer.partial(self.stage), self.steps_by, self.trainer.ranks)
        self.saved, self.began = time.monotonic(), time.perf_counter()

    def _restore(self) -> None:
        trainer, path = self.trainer, self.trainer.partial(self.stage)
        if path.exists():
            tree = shards.read(path, self.steps_by, trainer.ranks, trainer.progress.say)
            self.steps_by.load_state_dict(tree)
            self.epoch, self.step = tree["epoch"], tree["step"]
            self.sums, self.seconds = tree["sums"], tree["seconds"]
        trainer.ranks.wait()  # before rank 0 writes anything anew
        trainer.tracker.rewind(self.stage.name, self._done())
        if trainer.ranks.first:
            keep_log(trainer.log, self.stage.name, self.epoch)
        self.saved = time.monotonic()

    def _judged(self) -> Mapping[str, float]:
        if self.trainer.judge is None:
            return {}
        average = self.steps_by.average
        with nullcontext() if average is None else average.shipped():
            return self.trainer.judge(self.stage, self.epoch + 1)

    def _log(self) -> None:
        judged = self._judged()
        if not self.trainer.ranks.first:
            return
        line: dict[str, Any] = {"stage": self.stage.name, "epoch": self.epoch + 1}
        line |= {name: value / self.steps for name, value in self.sums.items()}
        line |= self.stage.watch() if self.stage.watch else {}
        line |= judged
        line |= {"lr": self.steps_by.optimizer.param_groups[0]["lr"], "images": self.steps * self.way.batch}
        line |= {"seconds": round(self.seconds, 3), "precision": self.way.precision, "compile": self.way.mode}
        append(self.trainer.log, json.dumps(line) + "\n")
        self.trainer.tracker.tell(self.stage.name, (self.epoch + 1) * self.steps, figures(line))
