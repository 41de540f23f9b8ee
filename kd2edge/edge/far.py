"""The far side's work: `python -m kd2edge.edge.far KIT SHA256 WORK`, started by `start.py` once every file is verified.

Engines are built, outputs on the probe computed, models measured; what comes of it lies in KIT/results with a
`result.json` that names it. Lines on stdout tell of it. What is finished is kept in WORK: the same call goes on.
"""

import argparse
import fcntl
import glob
import hashlib
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kd2edge import __version__
from kd2edge.artifact import Artifact, open_artifact
from kd2edge.edge import devices
from kd2edge.edge.bench import bench
from kd2edge.edge.built_on import Misfit
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.kept import digest, kept_in
from kd2edge.edge.kit import KIT, PROBE, RESULT, RESULTS, Kit, Made, Model, Result, file_of, read_kit
from kd2edge.edge.leaving import save
from kd2edge.edge.session import Backend, open_backend
from kd2edge.edge.shards import Faces, Shards
from kd2edge.edge.suited import examine
from kd2edge.errors import UserError, first_line
from kd2edge.files import write_atomic
from kd2edge.report.model import Report, Row, write_json
from kd2edge.schema import Target

SILENCE = 60.0  # seconds without a sign of the host after which the work ends
PATIENCE = 120.0  # seconds to wait for the work of a connection that was lost
ENGINES, CELLS, DONE, LOCK = "engines", "cells", "result.json", ".lock"
REPORT, OUTPUTS = "report.json", Path("outputs.npy")


def main() -> None:
    """Do what the kit says. Whatever goes wrong is the last line told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kit", type=Path)
    parser.add_argument("sha256")
    parser.add_argument("work", type=Path)
    parser.add_argument("--tied", action="store_true")
    asked = parser.parse_args()
    if asked.tied:
        threading.Thread(target=_end_with_the_host, daemon=True).start()
    try:
        text = (asked.kit / KIT).read_bytes()
        if hashlib.sha256(text).hexdigest() != asked.sha256:
            raise UserError(f"{asked.kit / KIT} is not the one that was asked for: its sha256 differs.")
        with _alone(asked.work):
            made = perform(read_kit(text), asked.sha256, asked.kit, asked.work)
        tell(result=made)
    except UserError as error:
        _fail(error.message, error.hint)
    except Exception as error:
        _fail(f"The far side failed ({type(error).__name__}: {first_line(error)}).", None)


def tell(**event: Any) -> None:
    """A JSON line for the host; where somebody has started a kit by hand, a line for people."""
    print(json.dumps(event) if "--tied" in sys.argv else _line(event), flush=True)


def _line(event: dict[str, Any]) -> str:
    match event:
        case {"step": what, "share": share}:
            return f"{100 * share:3.0f} %  {what}"
        case {"fault": fault, "hint": hint}:
            return f"{fault}\n  hint: {hint}" if hint else f"{fault}"
        case {"result": _}:
            return f"Done. What came of it is in the kit's folder {RESULTS}: bring it back."
    return str(event["say"])


def _fail(fault: str, hint: str | None) -> NoReturn:
    tell(fault=fault, hint=hint)
    raise SystemExit(2)


def perform(kit: Kit, known: str, folder: Path, work: Path) -> str:
    """Do the work of a kit, known by its sha256, unless it is done, and return the sha256 of its result.json."""
    results = folder / RESULTS
    if _is_done(results, work):
        tell(say="It is done already.")
        return _digest(results / RESULT)
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    target = kit.target.model_copy(update={"require_signature": False})  # the kit is verified, the host signs
    backend = open_backend(target.backend)
    for check in examine(target):
        if check.says != "ok" and check.name != "signing key":  # no private key belongs on a board
            tell(say=f"{check.name}: {check.detail}{f' ({check.mend})' if check.mend else ''}")
    made = [] if kit.data else [_made(kit, model, folder, target, backend, work) for model in kit.models]
    report = _measured(kit, folder, target, work) if kit.data else None
    if report is not None:
        write_json(report, results / REPORT)
    result = Result(
        kit=known,
        kd2edge=__version__,
        target_name=kit.target_name,
        device=devices.fingerprint(),
        versions=devices.versions(),
        made=tuple(made),
        report=REPORT if report else None,
        files={str(path.relative_to(results)): file_of(path) for path in sorted(results.rglob("*")) if path.is_file()},
    )
    write_json(result, results / RESULT)
    write_atomic(work / DONE, (results / RESULT).read_bytes())
    return _digest(results / RESULT)


def _is_done(results: Path, work: Path) -> bool:
    """Whether the work was finished here; of results that came with the kit nothing is believed."""
    try:
        known = (work / DONE).read_bytes()
        files = Result.model_validate_json(known).files
        whole = all(file_of(results / name) == file for name, file in files.items())
        return whole and (results / RESULT).read_bytes() == known
    except (OSError, ValueError, UserError):
        return False


def _made(kit: Kit, model: Model, folder: Path, target: Target, backend: Backend, work: Path) -> Made:
    """Build one engine, or take the ONNX file where that is what runs, and compute its outputs on the probe."""
    source, place = folder / model.file, Path(model.file).parent.name
    results = folder / RESULTS / place
    results.mkdir()
    engine = work / ENGINES / _circumstances() / place / f"{source.stem}.{kit.target_name}.engine"
    engine = _engine(source, engine, model.role, target, backend)
    name = None if engine == source else f"{place}/{engine.name}"
    for path in sorted(engine.parent.glob(f"{glob.escape(engine.name)}*")) if name else ():
        write_atomic(results / path.name, path.read_bytes())
    fault = backend.available()
    if fault is not None:
        return Made(role=model.role, parent=model.sha256, engine=name, unproved=fault)
    tell(say=f"{model.role}: its outputs on the probe ...")
    try:
        with backend.open(engine, target) as session:
            images, batch = np.load(folder / PROBE, allow_pickle=False), target.batch
            save(results / OUTPUTS, in_batches(session, images, batch.max, batch.min))
    except Misfit as error:  # of TensorRT for RTX, which builds for other GPUs than the one at hand
        return Made(role=model.role, parent=model.sha256, engine=name, unproved=error.message)
    return Made(role=model.role, parent=model.sha256, engine=name, outputs=f"{place}/{OUTPUTS}")


def _circumstances() -> str:
    """What an engine that is kept depends on: after an update of the board it is another."""
    device = devices.fingerprint()
    return digest(devices.versions() | {name: device.get(name) for name in ("driver", "l4t", "gpus")})[:16]


def _engine(source: Path, path: Path, role: str, target: Target, backend: Backend) -> Path:
    """The engine, as an earlier call has finished it or built now."""
    with suppress(UserError):
        return open_artifact(path).path
    path.parent.mkdir(parents=True, exist_ok=True)
    tell(say=f"{role}: {target.backend} ...")
    return backend.build(source, target, path)


def _measured(kit: Kit, folder: Path, target: Target, work: Path) -> Report:
    assert kit.data is not None
    if kit.suite is None or kit.suite_name is None:
        raise UserError("The kit has images, but no suite to measure by.")
    source = (Faces if kit.data.personal else Shards)(folder / kit.data.folder)
    items = [(model.role, _artifact(folder / model.file, model)) for model in kit.models]
    with kept_in(work / CELLS) as kept:
        if kept.earlier:
            tell(say=f"An interrupted bench left {kept.earlier} measurements, which stand.")
        report = bench(
            items,
            target,
            kit.target_name,
            kit.suite,
            kit.suite_name,
            source,
            split=kit.suite.split,
            command=kit.command,
            extra_numbers=kit.numbers,
            progress=lambda what, share: tell(step=what, share=share),
            kept=kept,
        )
        kept.remove()
    return report.model_copy(update={"rows": tuple(_named(row, kit.data.name) for row in report.rows)})


def _artifact(path: Path, model: Model) -> Artifact:
    found = open_artifact(path)
    return Artifact(path, found.manifest.model_copy(update={"sha256": model.sha256}))


def _named(row: Row, name: str) -> Row:
    """The row with its images called as their data set is, not as the folder they came in."""
    data = {**row.conditions.get("data", {}), "source": name}
    return row.model_copy(update={"conditions": {**row.conditions, "data": data}})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Wait for the work of a connection that was lost: it ends by itself. Raises `UserError` where it does not."""
    with (work / LOCK).open("w") as file:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UserError("Another one is at work on this kit.", "wait for it") from None
            tell(say="Waiting for an earlier start of this kit to end ...")
            time.sleep(2)
        yield


def _end_with_the_host() -> None:
    """The host sends a byte now and then: where none comes the connection is lost, and nobody waits for this work."""
    while select.select([0], [], [], SILENCE)[0] and os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # the workers leave with it


if __name__ == "__main__":
    main()
