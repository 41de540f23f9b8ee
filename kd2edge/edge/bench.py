"""Suite × artefacts → report: accuracy of every file on the whole split, then latency, each in a process of its own.

Latency is measured in three rounds of fresh processes that take turns (A B C A B C ...), so that a machine which
slows down or wakes up during the bench does so for every row, and INT8 is compared with FP32 fairly.
"""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.artifact import Artifact
from kd2edge.data import PairList, Source, Split, Templates
from kd2edge.edge import devices
from kd2edge.edge.operating import stored
from kd2edge.edge.session import Backend, open_backend
from kd2edge.edge.trial import IMAGES, Trial
from kd2edge.errors import UserError
from kd2edge.files import disk_fault
from kd2edge.report.model import Number, Report, Row
from kd2edge.schema import Latency, Suite, Target

ROUNDS = 3
CHUNK = 256
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
) -> Report:
    """Measure artefacts by role. `extra_numbers` (role → name → number) join the rows as they are.

    Without `accuracy` only speed and size are measured.

    What is wrong with one file (missing, altered, refused, crashed, NaN) becomes a fault of its row. `progress` gets
    what is being done and the share done so far, 0..1. Raises `UserError` for what concerns all rows: a back end that
    is not usable here, a batch outside the target's profile, data that cannot be read.
    """
    backend = _usable_backend(target, suite)
    device = devices.fingerprint()
    data = source.split(split)
    tell = progress or (lambda text, share: None)
    with tempfile.TemporaryDirectory(prefix="kd2edge-bench-") as folder:
        trials = [Trial(role, artifact, target, Path(folder)) for role, artifact in items]
        conditions: dict[str, Any] = {"threads": target.threads, "rounds": ROUNDS}
        conditions["data"] = {"source": _name(source), "split": split, **_write_images(data, Path(folder))}
        for trial in trials:
            trial.prepare(backend)
        if accuracy:
            _accuracy(trials, data, tell)
        _latency(trials, suite.latency, tell)
    rows = [trial.row(conditions, (extra_numbers or {}).get(trial.role, {})) for trial in trials]
    runtimes = [answer.versions for trial in trials for answer in trial.answers[:1]]
    return Report(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=command,
        target=target_name,
        device=device,
        versions=devices.versions() | {name: version for found in runtimes for name, version in found.items()},
        suite_name=suite_name,
        suite=suite,
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


def _write_images(data: Split, folder: Path) -> dict[str, Any]:
    """Decode the split once for all workers, to a .npy of uint8 [N, H, W, C].

    Returns N and the sha256 of labels, listed pairs and pixels. Raises `UserError` when the split is empty, or the
    disk full.
    """
    if not len(data):
        raise UserError("The split to measure on is empty.")
    path = folder / IMAGES
    digest = hashlib.sha256(np.ascontiguousarray(data.labels).tobytes())
    if isinstance(data.protocol, PairList):
        digest.update(data.protocol.pairs.tobytes() + data.protocol.same.tobytes())
    if isinstance(data.protocol, Templates):
        of_images = (data.protocol.template, data.protocol.media, data.protocol.faceness)
        for part in (*of_images, data.protocol.pairs, data.protocol.same):
            digest.update(part.tobytes())
    shape = (len(data), *data.read(np.arange(1)).shape[1:])
    try:
        with path.open("wb") as file:  # written, not mapped: where a map finds no room the process ends by a signal
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in range(0, len(data), CHUNK):
                images = data.read(np.arange(start, min(start + CHUNK, len(data)))).tobytes()
                file.write(images)
                digest.update(images)
    except OSError as error:
        raise disk_fault(error, path) from error
    return {"images": len(data), "sha256": digest.hexdigest()}


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
    share = {"seconds": latency.seconds / ROUNDS, "min_samples": math.ceil(latency.min_samples / ROUNDS)}
    part = latency.model_copy(update=share)
    turns = [(number, trial) for number in range(1, ROUNDS + 1) for trial in trials]
    for place, (number, trial) in enumerate(turns):
        tell(f"{trial.role}: latency, round {number} of {ROUNDS}", 0.5 + 0.5 * place / len(turns))
        trial.time(part)
    for trial in trials:
        trial.summarize(latency.batch)
    tell("measured", 1.0)


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
