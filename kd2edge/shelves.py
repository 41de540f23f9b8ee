"""Shelves: folders in which every file is a plug-in and its file name is its name. Adding one edits no list."""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from kd2edge.errors import Faults, UserError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

DATA = "kd2edge.data"
MODELS = "kd2edge.kd.models"
METHODS = "kd2edge.kd.methods"
LAYOUTS = "kd2edge.kd.layouts"
BACKENDS = "kd2edge.edge.backends"


def names(shelf: str) -> list[str]:
    """The plug-ins on a shelf, by file name, without importing any of them."""
    return sorted(m.name for m in pkgutil.iter_modules([str(_folder(shelf))]) if not m.name.startswith("_"))


def about(shelf: str, name: str) -> str:
    """First line of a plug-in's docstring, read without importing it (its imports may be missing here)."""
    source = (_folder(shelf) / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


def load(shelf: str, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that the plug-in `name` defines.

    `name` is a file name on the shelf, a dotted module path (`my_package.my_method`) or a path ending in `.py`.
    Raises `UserError` if there is no such plug-in, or not exactly one such class in it.
    """
    module = _module(shelf, name)
    found = [
        item
        for item in vars(module).values()
        if _is_class(item) and issubclass(item, base) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(
            f"{name} defines {len(found)} subclasses of {base.__name__}; a plug-in defines exactly one.",
            f"see docs/ for the shape of a file on the shelf {shelf}",
        )
    return found[0]


class PluginConfig(BaseModel):
    """Base of every plug-in's `Config`: its section of a recipe, without the `name`. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


def configure(config: type[M], options: dict[str, Any], subject: str) -> M:
    """Validate `options` as a `config`; every fault found is reported at once in one `Faults`."""
    try:
        return config.model_validate(options)
    except ValidationError as error:
        raise Faults(subject, list(faults(config, error))) from None


def faults(config: type[BaseModel], error: ValidationError, prefix: str = "") -> Iterator[str]:
    """One readable line for each fault in a pydantic error, unknown keys with the nearest valid one."""
    for item in error.errors():
        where = prefix + ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _keys_at(config, item["loc"][:-1])
            yield f"{where}: unknown key{nearest(str(item['loc'][-1]), known)}"
        elif item["type"] == "missing":
            yield f"{where}: required key is missing"
        else:
            got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
            yield f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}{got}"


def _keys_at(config: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        if part in config.model_fields:
            config = next(iter(_models_in(config.model_fields[str(part)].annotation)), config)
    return list(config.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if _is_class(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _is_class(item: Any) -> TypeGuard[type[Any]]:
    """A class and no generic alias: Python 3.10 takes `list[int]` for a type too."""
    return isinstance(item, type) and get_origin(item) is None


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean X?)`, or nothing when no known name is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _folder(shelf: str) -> Path:
    spec = importlib.util.find_spec(shelf)
    assert spec is not None and spec.submodule_search_locations is not None, shelf
    return Path(next(iter(spec.submodule_search_locations)))


def _module(shelf: str, name: str) -> ModuleType:
    if name.endswith(".py"):
        return _module_at(Path(name))
    if "." in name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"No module {error.name!r} for the plug-in {name!r}.") from error
    known = names(shelf)
    if name not in known:
        kind = shelf.rsplit(".", 1)[1]
        raise UserError(f"There is no {name!r} among the {kind}{nearest(name, known)}.", f"known: {', '.join(known)}")
    return importlib.import_module(f"{shelf}.{name}")


def _module_at(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"There is no plug-in file {path}.")
    spec = importlib.util.spec_from_file_location(f"kd2edge_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
