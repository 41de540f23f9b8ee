"""A run: a directory with a resolved recipe and an append-only ledger that names every artefact made in it."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kd2edge import artifact, drawers
from kd2edge.artifact import Ancestor, Artifact
from kd2edge.errors import UserError
from kd2edge.files import disk_fault, sha256, write_atomic
from kd2edge.schema import Recipe

RECIPE = "recipe.yaml"
LEDGER = "ledger.jsonl"


class Run:
    """A run directory. The ledger is the truth: an artefact it does not name was never finished."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({self.path})"

    @property
    def recipe(self) -> Recipe:
        return drawers.read_recipe(self.path / RECIPE)

    @property
    def origin(self) -> Ancestor:
        """The recipe, with which the chain of every artefact of this run begins."""
        return Ancestor(role="recipe", kind="recipe", sha256=sha256(self.path / RECIPE))

    def record(self, verb: str, event: str, **data: Any) -> None:
        """Append one line to the ledger, durably. Raises `UserError` when the disk is full."""
        line = json.dumps({"time": _now(), "verb": verb, "event": event, **data}, allow_nan=False) + "\n"
        path = self.path / LEDGER
        try:
            with path.open("ab+") as file:
                _drop_torn_line(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_fault(error, path) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """The ledger's lines, oldest first; a last line torn by a kill is passed over."""
        path = self.path / LEDGER
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if line.endswith(b"\n"):
                yield json.loads(line)

    def add(self, made: Artifact, verb: str) -> Artifact:
        """Enter an artefact of this run into the ledger."""
        manifest = made.manifest
        file = made.path.resolve().relative_to(self.path.resolve())
        self.record(verb, "artifact", role=manifest.role, kind=manifest.kind, file=str(file), sha256=manifest.sha256)
        return made

    def files(self, kind: str) -> dict[str, Path]:
        """Role → path of the newest artefact of a kind, whether or not the file is still there."""
        entries = (e for e in self.events() if e["event"] == "artifact" and e["kind"] == kind)
        return {entry["role"]: self.path / entry["file"] for entry in entries}

    def artifact(self, role: str, kind: str = "onnx") -> Artifact:
        """Open an artefact by role. Raises `UserError` when the run has none, or its file is gone or altered."""
        path = self.files(kind).get(role)
        if path is None:
            raise UserError(f"The run {self.path} has no {role} {kind} artefact.")
        return artifact.open_artifact(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of this run directory."""
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"Another process is working in {self.path}.", "wait for it, or name another --run"
                ) from None
            yield


def create(path: Path, recipe: Recipe, resume: bool) -> Run:
    """Make a run directory, or with `resume` open the one that is there.

    Raises `UserError` when the directory holds a run already (without `resume`) or a run of another recipe.
    """
    run = Run(path)
    if (path / RECIPE).exists():
        if not resume:
            raise UserError(f"{path} already holds a run.", "continue it with --resume, or name another --run")
        if run.recipe != recipe:
            raise UserError(
                f"{path} was started with another recipe; resuming it with this one would mix two experiments.",
                f"resume without --set, or compare with {path / RECIPE}",
            )
        return run
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(path / RECIPE, text.encode())
    run.record("run", "created", recipe=recipe.about)
    return run


def open_run(path: Path) -> Run:
    """Open an existing run. Raises `UserError` when the directory holds none."""
    if not (path / RECIPE).is_file():
        raise UserError(f"{path} is not a run directory: it has no {RECIPE}.", "kd2edge distill makes one")
    return Run(path)


def _drop_torn_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
