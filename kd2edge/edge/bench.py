"""Suite × artefacts → report: accuracy of every file on the whole split, then latency, each in a process of its own.

Latency is measured in three rounds of fresh processes that take turns (A B C A B C ...), so that a machine which
slows down or wakes up during the bench does so for every row, and INT8 is compared with FP32 fairly. So a round that an
interruption broke off is taken anew by all rows, while whatever else was finished is kept.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from kd2edge.artifact import Artifact
from kd2edge.data import Source, Split
from kd2edge.edge import asked, devices
from kd2edge.edge.comparisons import Measured, comparisons
from kd2edge.edge.decoded import decode
from kd2edge.edge.depth import look_into, refuse_unfit
from kd2edge.edge.in_use import measure_in_use
from kd2edge.edge.kept import IMAGES, Kept, kept_for_now
from kd2edge.edge.operating import stored
from kd2edge.edge.session import Backend, open_backend
from kd2edge.edge.signed import signed
from kd2edge.edge.trial import Trial
from kd2edge.errors import UserError
from kd2edge.report.model import Number, Regression, Report, Row
from kd2edge.schema import Latency, Suite, Target

ROUNDS = 3
REFERENCE = "fp32"

Progress = Callable[[str, float], None]


def bench(
    items: Sequence[tuple[str, Artifact]],
    target: Target,
    target_name: str,
    suite: Suite,
    suite_name: str,
    source: Source,
    split: str = "test",
    command: str = "",
    extra_numbers: Mapping[str, Mapping[str, Number]] | None = None,
    progress: Progress | None = None,
    accuracy: bool = True,
    kept: Kept | None = None,
) -> Report:
    """Measure artefacts by role. `extra_numbers` (role → name → number) join the rows as they are.

    Without `accuracy` only speed and size are measured. What is `kept` of an interrupted bench is not measured again.

    What is wrong with one file (missing, altered, refused, crashed, NaN) becomes a fault of its row. `progress` gets
    what is being done and the share done so far, 0..1. Raises `UserError` for what concerns all rows: a back end that
    is not usable here, a batch outside the target's profile, data that cannot be read, a full disk.
    """
    backend = _usable_backend(target, suite)
    device = devices.fingerprint()
    data = source.split(split)
    refuse_unfit(suite, data)
    worst: tuple[Regression, ...] = ()
    confidence, fars = asked.level(suite), asked.fars(suite)
    tell = progress or (lambda text, share: None)
    with nullcontext(kept) if kept else kept_for_now() as kept:
        images = decode(data, kept.folder / IMAGES)
        trials = [
            Trial(role, artifact, target, kept, images, confidence=confidence, fars=fars) for role, artifact in items
        ]
        conditions: dict[str, Any] = {"threads": target.threads, "rounds": ROUNDS}
        described = {"images": images.images, "sha256": images.sha256}
        conditions["data"] = {"source": _name(source), "split": split, **described}
        for trial in trials:
            trial.prepare(backend)
        if accuracy:
            _accuracy(trials, data, tell)
            worst = look_into(trials, suite, data, REFERENCE, confidence, lambda text, share: tell(text, 0.5))
        _latency(trials, suite.latency, tell)
        _compare(trials, suite, data, confidence)
        measure_in_use(trials, suite, confidence, device["cores"], lambda text: tell(text, 1.0))
    rows = [
        trial.row(conditions | signed(trial.artifact, suite.signed), (extra_numbers or {}).get(trial.role, {}))
        for trial in trials
    ]
    runtimes = [answer.versions for trial in trials for answer in trial.answers[:1]]
    return Report(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=command,
        target=target_name,
        device=device,
        versions=devices.versions() | {name: version for found in runtimes for name, version in found.items()},
        suite_name=suite_name,
        suite=suite,
        confidence=confidence,
        regressions=() if source.personal else worst,
        rows=tuple(_with_gaps(row, rows) for row in rows),
    )


def _usable_backend(target: Target, suite: Suite) -> Backend:
    backend = open_backend(target.backend)
    fault = backend.available()
    if fault:
        raise UserError(fault)
    low, batch, high = target.batch.min, suite.latency.batch, target.batch.max
    if not low <= batch <= high:
        raise UserError(
            f"The suite measures batches of {batch}, the target takes {low} to {high}.",
            "change `latency: batch` of the suite or `batch` of the target",
        )
    return backend


def _name(source: Source) -> str:
    return type(source).__module__.rsplit(".", 1)[-1]


def _accuracy(trials: Sequence[Trial], data: Split, tell: Progress) -> None:
    for place, trial in enumerate(trials):
        tell(f"{trial.role}: accuracy", 0.5 * place / len(trials))
        trial.infer(data.protocol is not None and data.protocol.flip)
        trial.score(data)
    references = [trial for trial in trials if trial.role == REFERENCE]
    for trial in trials:
        for reference in references:
            trial.compare(reference, data)
        kept = stored(trial.artifact.manifest.details)
        if kept is not None and not references:
            trial.drift(kept, data)


def _latency(trials: Sequence[Trial], latency: Latency, tell: Progress) -> None:
    each = {"seconds": latency.seconds / ROUNDS, "min_samples": math.ceil(latency.min_samples / ROUNDS)}
    part = latency.model_copy(update=each)
    for turn in range(1, ROUNDS + 1):
        anew = len({trial.sitting(part, turn) for trial in trials if not trial.faults}) > 1
        for place, trial in enumerate(trials):
            share = (turn - 1 + place / len(trials)) / ROUNDS
            tell(f"{trial.role}: latency, round {turn} of {ROUNDS}", 0.5 + 0.5 * share)
            trial.time(part, turn, anew)
    for trial in trials:
        trial.summarize(latency.batch)
    tell("measured", 1.0)


def _compare(trials: Sequence[Trial], suite: Suite, data: Split, confidence: float) -> None:
    """Rows with rows, by the samples of both, as far as they are not at fault."""
    sound = [trial for trial in trials if not trial.faults]
    rows = {
        trial.role: Measured(trial.numbers, trial.output, trial.outputs, trial.rounds, trial.conditions, trial.stages)
        for trial in sound
    }
    reference = REFERENCE if any(trial.role == REFERENCE for trial in trials) else trials[0].role if trials else ""
    made = comparisons(suite, rows, data, reference, confidence)
    for trial in sound:
        trial.comparisons += made[trial.role]


def _with_gaps(row: Row, rows: Sequence[Row]) -> Row:
    """A faulty row that says `null`, and why, for every number that another row has."""
    if not row.faults:
        return row
    gaps = {
        name: Number(value=None, unit=number.unit, better=number.better, note=row.faults[0])
        for other in rows
        for name, number in other.numbers.items()
    }
    return row.model_copy(update={"numbers": gaps | row.numbers})
