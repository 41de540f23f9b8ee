"""`list`, `show` and `copy`: what is in the drawers (YAML) and on the shelves (plug-ins), to read and to start from."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from kd2edge import drawers, shelves
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.schema import Recipe, Study, Suite, Target

SCHEMAS: Mapping[str, type[BaseModel]] = {"recipes": Recipe, "targets": Target, "suites": Suite, "studies": Study}
SHELVES = {
    "methods": shelves.METHODS,
    "models": shelves.MODELS,
    "data": shelves.DATA,
    "backends": shelves.BACKENDS,
}
KINDS = (*SCHEMAS, *SHELVES)


def list_names(kind: str) -> dict[str, str]:
    """Name → one line about it, for a drawer (recipes, targets, ...) or a shelf (methods, models, data, backends).

    No plug-in is imported. A declaration that is faulty is listed with its fault. Raises `UserError` for another kind.
    """
    if kind in SCHEMAS:
        return {name: _about(kind, name) for name in drawers.names(kind)}
    shelf = _shelf(kind)
    return {name: shelves.about(shelf, name) for name in shelves.names(shelf)}


def find(kind: str, name: str) -> Path:
    """The file of a declaration or a plug-in. Raises `UserError` if there is none, with the nearest name."""
    if kind in SCHEMAS:
        return drawers.find(kind, name)
    shelf = _shelf(kind)
    known = shelves.names(shelf)
    if name not in known:
        near = shelves.nearest(name, known)
        raise UserError(f"There is no {name!r} among the {kind}{near}.", f"kd2edge list {kind}")
    spec = importlib.util.find_spec(shelf)
    assert spec is not None and spec.submodule_search_locations is not None, shelf
    return Path(next(iter(spec.submodule_search_locations))) / f"{name}.py"


def show(kind: str, name: str) -> str:
    """The text of a declaration or a plug-in."""
    return find(kind, name).read_text(encoding="utf-8")


def copy(kind: str, name: str, to: Path) -> Path:
    """Copy a declaration or a plug-in to a file or into a folder, to edit it. Raises `UserError` where one is there."""
    if kind in SCHEMAS:
        return drawers.copy(kind, name, to)
    source = find(kind, name)
    destination = to / source.name if to.is_dir() else to
    if destination.exists():
        raise UserError(f"{destination} exists already.", "name another file")
    return write_atomic(destination, source.read_bytes())


def _about(kind: str, name: str) -> str:
    try:
        return str(drawers.read(kind, name, SCHEMAS[kind]).model_dump()["about"])
    except UserError as fault:
        return fault.message.splitlines()[0]


def _shelf(kind: str) -> str:
    if kind not in SHELVES:
        raise UserError(f"There is nothing called {kind!r}{shelves.nearest(kind, list(KINDS))}.", " ".join(KINDS))
    return SHELVES[kind]
