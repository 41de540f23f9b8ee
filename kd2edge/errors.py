"""What can go wrong, in two families, and the exit codes that say which.

A `UserError` is something the person in front of the tool can mend: one sentence, one hint, no stack trace.
Every other exception is the tool's own fault and is treated as a defect (exit 4).
"""

import os
import shlex
from enum import IntEnum
from pathlib import Path


class Exit(IntEnum):
    """Exit codes of every verb; 2 is what Click uses for a command asked wrongly."""

    SHIP = 0
    HOLD = 1
    ASKED_WRONGLY = 2
    UNDECIDED = 3
    OUR_FAULT = 4
    INTERRUPTED = 130


class UserError(Exception):
    """A fault the user can mend. `message` is one sentence; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class Diverged(UserError):
    """A training whose loss is not finite: its settings are at fault, and would be again."""


class Faults(UserError):
    """Several user errors found together (a recipe's unknown keys, say), reported all at once."""

    def __init__(self, subject: str, faults: list[str], hint: str | None = None) -> None:
        lines = "".join(f"\n  - {fault}" for fault in faults)
        super().__init__(f"{subject}: {len(faults)} fault{'s' * (len(faults) != 1)}{lines}", hint)
        self.faults = faults


class MissingExtra(UserError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str, use: str) -> None:
        super().__init__(f"{use} needs {package}, which is not installed.", install_command(extra))


def install_command(extra: str) -> str:
    """What installs an extra: of the checkout that this package lies in, else of the package registry's kd2edge."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        return f"pip install 'kd2edge[{extra}]'"
    place = "." if os.path.exists(".") and os.path.samefile(root, ".") else str(root)
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
