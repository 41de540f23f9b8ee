"""How a command ends: an answer, a fault the user can mend, an interruption, or our own fault with a log of it."""

import contextlib
import errno
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from kd2edge.cli.terminal import Terminal
from kd2edge.errors import Exit, UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Verb(TyperCommand):
    """A command whose every end has an exit code and, unless it is the answer, one sentence."""

    def invoke(self, ctx: Any) -> Any:
        terminal = ctx.obj = Terminal(bool(ctx.params.get("json")))
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            terminal.fail("Interrupted.", terminal.resume and f"continue with: {terminal.resume}", Exit.INTERRUPTED)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except Exception as error:
            raise typer.Exit(_told(error, terminal)) from None
        finally:
            terminal.close()


def _told(error: Exception, terminal: Terminal) -> Exit:
    if isinstance(error, UserError):
        terminal.fail(error.message, error.hint, Exit.ASKED_WRONGLY)
        return Exit.ASKED_WRONGLY
    full = next((cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno in DISK_FULL), None)
    if full is not None:
        hint = f"free some space, then: {terminal.resume}" if terminal.resume else "free some space and try again"
        terminal.fail(f"The disk is full{f': {full.filename}' if full.filename else ''}.", hint, Exit.ASKED_WRONGLY)
        return Exit.ASKED_WRONGLY
    log = _crash_log(error)
    hint = f"the traceback is in {log}; please report it" if log else "its traceback could not be written"
    terminal.fail(f"This is a defect of kd2edge ({type(error).__name__}: {_one_line(error)}).", hint, Exit.OUR_FAULT)
    return Exit.OUR_FAULT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of: libraries wrap a full disk in exceptions of their own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _crash_log(error: Exception) -> Path | None:
    name = f"kd2edge-crash-{time.strftime('%Y%m%d-%H%M%S')}.log"
    text = f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    for folder in (".", tempfile.gettempdir()):
        with contextlib.suppress(OSError):
            Path(folder, name).write_text(text, encoding="utf-8")
            return Path(folder, name)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"
