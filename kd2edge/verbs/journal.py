"""What was measured once is never measured again: an append-only journal, keyed by what the measurement depends on.

A kill in the middle of a line loses that line alone. Answers are taken from the journal also where a second measurement
would differ, as latencies do; so whoever asks the same questions in the same order comes to the same end.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kd2edge.errors import UserError
from kd2edge.files import append, write_atomic
from kd2edge.schema import Section

FILE = "journal.jsonl"
S = TypeVar("S", bound=Section)


class Journal:
    """The journal in a folder, for measurements under `settings` (JSON); those of others it ignores."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self._settings = json.dumps(settings, sort_keys=True)
        self._lines = {line["key"]: line for line in self._whole_lines()}

    def once(self, what: str, about: Mapping[str, Any], kind: type[S], measure: Callable[[], S]) -> S:
        """The answer on record, or that of `measure`, which is put on record before it is given.

        A `UserError` of `measure` is put on record too and is raised each time, unless the disk is what failed.
        """
        key = hashlib.sha256(json.dumps([self._settings, what, about], sort_keys=True).encode()).hexdigest()
        if key not in self._lines:
            try:
                told: dict[str, Any] = {"answer": measure().model_dump(mode="json")}
            except UserError as error:
                if of_the_disk(error):
                    raise
                told = {"fault": error.message}
            line = {"key": key, "what": what, "about": about, **told}
            append(self.path, json.dumps(line, allow_nan=False) + "\n")
            self._lines[key] = line
        if "fault" in self._lines[key]:
            raise UserError(self._lines[key]["fault"])
        return kind.model_validate_json(json.dumps(self._lines[key]["answer"]))

    def _whole_lines(self) -> Iterator[dict[str, Any]]:
        """The lines on record; one that a kill has torn is cut off, so that the next begins on its own."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomic(self.path, whole)
        try:
            yield from (json.loads(line) for line in whole.splitlines())
        except ValueError as error:
            raise UserError(f"{self.path} is damaged: {error}.", "remove it, and everything is measured anew") from None


def of_the_disk(error: UserError) -> bool:
    """Whether the operating system is at fault, and another time may be better."""
    return isinstance(error.__cause__, OSError)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder. Raises `UserError` when one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process is measuring in {folder}.", "wait for it") from None
        yield
