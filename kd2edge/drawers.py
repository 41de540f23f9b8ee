"""The drawers: YAML declarations of recipes, targets, suites, studies. Find, read, list, copy; `--set a.b=c` on top."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from kd2edge import shelves
from kd2edge.errors import Faults, UserError
from kd2edge.files import write_atomic
from kd2edge.schema import Recipe, Study, Suite, Target

M = TypeVar("M", bound=BaseModel)

FOLDERS = {
    "recipes": "recipes",
    "targets": "export",
    "suites": "benchmarks/suites",
    "studies": "benchmarks/studies",
}
DEFAULT_RECIPE = "omniglot"


def folder(drawer: str) -> Path:
    """Where a drawer's files lie: inside an installed wheel, else beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "_drawers" / FOLDERS[drawer].split("/")[-1]
    if installed.is_dir():
        return installed
    if (package.parent / "pyproject.toml").is_file():
        return package.parent / FOLDERS[drawer]
    raise UserError(f"This installation has no {drawer}.", "install kd2edge again")


def names(drawer: str) -> list[str]:
    """The drawer's declarations by name, e.g. `omniglot` or `fine/cars`."""
    root = folder(drawer)
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def find(drawer: str, name: str) -> Path:
    """The file of a declaration: an explicit path first, then a name in the drawer."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"There is no file {name}.", f"kd2edge list {drawer}")
        return Path(name)
    path = folder(drawer) / f"{name}.yaml"
    if not path.is_file():
        near = shelves.nearest(name, names(drawer))
        raise UserError(f"There is no {name!r} among the {drawer}{near}.", f"kd2edge list {drawer}")
    return path


def copy(drawer: str, name: str, to: Path) -> Path:
    """Copy a declaration out of its drawer to edit it. Never overwrites."""
    source = find(drawer, name)
    destination = to / source.name if to.is_dir() else to
    if destination.exists():
        raise UserError(f"{destination} exists already.", "name another file")
    return write_atomic(destination, source.read_bytes())


def read_recipe(
    source: Path | str, overrides: tuple[str, ...] = (), also: Callable[[dict[str, Any]], list[str]] | None = None
) -> Recipe:
    """Read a recipe; `also` finds further faults in its raw tree (those of plug-in sections need their wing)."""
    return read("recipes", source, Recipe, overrides, also)


def read_target(source: Path | str) -> Target:
    return read("targets", source, Target)


def read_suite(source: Path | str) -> Suite:
    return read("suites", source, Suite)


def read_study(source: Path | str) -> Study:
    return read("studies", source, Study)


def read(
    drawer: str,
    source: Path | str,
    schema: type[M],
    overrides: tuple[str, ...] = (),
    also: Callable[[dict[str, Any]], list[str]] | None = None,
) -> M:
    """Read and validate a declaration, with `a.b=c` overrides applied first.

    Raises `UserError` for a missing or malformed file and `Faults` with every invalid key at once.
    """
    path = find(drawer, str(source))
    tree = _parse(path)
    for override in overrides:
        _override(tree, override)
    found = also(tree) if also else []
    try:
        declaration = schema.model_validate(tree)
    except ValidationError as error:
        raise Faults(str(path), [*shelves.faults(schema, error), *found]) from None
    if found:
        raise Faults(str(path), found)
    return declaration


def _parse(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} does not hold a mapping of keys to values.")
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r} is not of the form a.b=c.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"The value of --set {override!r} is not valid YAML.") from None
    *parents, last = key.split(".")
    for part in parents:
        child = tree.get(part)
        if child is not None and not isinstance(child, dict):
            raise UserError(f"--set {override!r}: {part!r} is a value, not a section.")
        tree[part] = dict(child or {})  # a copy: a YAML alias makes two sections one object
        tree = tree[part]
    tree[last] = value
