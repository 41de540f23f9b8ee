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

from pydantic import JsonValue, ValidationError

from kd2edge.errors import UserError
from kd2edge.files import append, write_atomic
from kd2edge.schema import Section

FILE = "journal.jsonl"
S = TypeVar("S", bound=Section)


class Unlisted(UserError):
    """A fault that is not of what is measured, so that it is not put on record under its name."""


class _Line(Section):
    key: str
    what: str
    about: dict[str, JsonValue]
    answer: JsonValue = None
    fault: str | None = None


class Journal:
    """The journal in a folder, for measurements under `settings` (JSON); those of others it ignores."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self._settings = json.dumps(settings, sort_keys=True)
        self._lines = {line.key: line for line in self._whole_lines()}

    def once(self, what: str, about: Mapping[str, Any], kind: type[S], measure: Callable[[], S]) -> S:
        """The answer on record, or that of `measure`, which is put on record before it is given.

        A `UserError` of `measure` is put on record too and is raised each time, unless the disk is what failed, or it
        is `Unlisted`.
        """
        key = hashlib.sha256(json.dumps([self._settings, what, about], sort_keys=True).encode()).hexdigest()
        if key not in self._lines:
            told: dict[str, Any] = {"key": key, "what": what, "about": about}
            try:
                answer = measure()
            except UserError as error:
                if not of_the_disk(error) and not isinstance(error, Unlisted):
                    self._put(_Line(**told, fault=error.message))
                raise
            self._put(_Line(**told, answer=answer.model_dump(mode="json")))
        return self._told(self._lines[key], kind)

    def _put(self, line: _Line) -> None:
        append(self.path, line.model_dump_json(exclude_unset=True) + "\n")
        self._lines[line.key] = line

    def _told(self, line: _Line, kind: type[S]) -> S:
        if line.fault is not None:
            raise UserError(line.fault, f"this is on record: to measure anew, remove {self.path}")
        try:
            return kind.model_validate_json(json.dumps(line.answer))
        except ValidationError:
            raise self._damaged(list(self._lines).index(line.key) + 1) from None

    def _whole_lines(self) -> Iterator[_Line]:
        """The lines on record; one that a kill has torn is cut off, so that the next begins on its own."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomic(self.path, whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield _Line.model_validate_json(line)
            except ValidationError:
                raise self._damaged(number) from None

    def _damaged(self, number: int) -> UserError:
        return UserError(
            f"{self.path} is damaged: line {number} is none of a journal's.",
            "remove it, and everything is measured anew",
        )


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
