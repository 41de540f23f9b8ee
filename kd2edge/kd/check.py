"""Faults in the plug-in sections of a recipe's raw tree, so that they are told together with the schema's own."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from kd2edge import shelves
from kd2edge.data import Source
from kd2edge.errors import UserError
from kd2edge.kd.method import Method
from kd2edge.kd.net import Backbone

SECTIONS: tuple[tuple[str, str, type[Any]], ...] = (
    ("data", shelves.DATA, Source),
    ("student.model", shelves.MODELS, Backbone),
    ("teacher.model", shelves.MODELS, Backbone),
    ("method", shelves.METHODS, Method),
)


def plugin_faults(tree: dict[str, Any]) -> list[str]:
    """One line for each unknown plug-in, and for each key that a plug-in's `Config` refuses."""
    found = [fault for where, shelf, base in SECTIONS for fault in _faults(tree, where, shelf, base)]
    return [*found, *_comparisons(tree.get("compare"))]


def _comparisons(names: Any) -> Iterator[str]:
    """Methods to compare with are named without options, so a name is all that can be wrong."""
    for name in names if isinstance(names, list | tuple) else ():
        try:
            shelves.load(shelves.METHODS, str(name), Method)
        except UserError as error:
            yield f"compare: {error.message}"


def _faults(tree: dict[str, Any], where: str, shelf: str, base: type[Any]) -> Iterator[str]:
    node: Any = tree
    for part in where.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        return  # the schema has told of it
    try:
        plugin = shelves.load(shelf, node["name"], base)
    except UserError as error:
        yield f"{where}.name: {error.message}"
        return
    try:
        plugin.Config.model_validate({key: value for key, value in node.items() if key != "name"})
    except ValidationError as error:
        yield from shelves.faults(plugin.Config, error, prefix=f"{where}.")
