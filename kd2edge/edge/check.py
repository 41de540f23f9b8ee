"""One line of an examination: what was tried, how it went, and the command that mends it."""

from collections.abc import Callable, Iterator
from typing import Literal

from kd2edge.schema import Section


class Check(Section):
    """One thing that was tried. Only what is `needed`, for anything at all or for a target, makes the whole broken."""

    name: str
    says: Literal["ok", "missing", "broken"]
    detail: str
    mend: str | None = None
    needed: bool = False


def is_broken(checks: list[Check]) -> bool:
    return any(check.needed and check.says != "ok" for check in checks)


def guarded(name: str, part: Callable[[], Iterator[Check]], needed: bool = False) -> Iterator[Check]:
    """What fails in some way of its own is a finding, not the end of the examination."""
    try:
        yield from part()
    except Exception as error:
        yield failed(name, error, needed)


def failed(name: str, error: Exception, needed: bool) -> Check:
    detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Check(name=name, says="broken", detail=detail, needed=needed)
