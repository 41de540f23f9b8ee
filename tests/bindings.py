"""Which names of NVIDIA's binding our code touches, found by following its objects through the code.

The binding has no types, so that in our code its objects are what is annotated `Any`. From there they are followed
through assignments, loops and calls; each attribute taken of one is a name that has to exist.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PLAIN = {name for kind in (str, bytes, int, list, tuple, dict) for name in dir(kind)} | {"__name__"}


@dataclass
class Touched:
    """`names` have to exist in every version, `optional` ones are asked for with hasattr or getattr."""

    names: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)


def touched(files: Sequence[Path]) -> Touched:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    found = Touched()
    known = _returning_any(trees)
    while True:  # until nothing new is reached: an attribute may be filled in another file
        before = len(known)
        for tree in trees:
            _follow(tree, known, set(), found)
        if len(known) == before:
            break
    own = {name for tree in trees for name in _own(tree)}
    calls = (node.func for node in _all(trees) if isinstance(node, ast.Call))
    called = {function.attr for function in calls if isinstance(function, ast.Attribute)}
    found.names -= own | PLAIN
    found.names |= {name for name in own if name not in called | _filled(trees) and not name.startswith("_")}
    return found


def _all(trees: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for tree in trees:
        yield from ast.walk(tree)


def _returning_any(trees: Sequence[ast.AST]) -> set[str]:
    return {f"{node.name}()" for node in _all(trees) if isinstance(node, ast.FunctionDef) and _any(node.returns)}


def _own(tree: ast.AST) -> Iterator[str]:
    """What our subclasses of the binding's classes define: methods, and attributes of self."""
    for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        if any(ast.unparse(base).startswith("trt.") for base in made.bases):
            for node in ast.walk(made):
                if isinstance(node, ast.FunctionDef):
                    yield node.name
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    yield node.attr


def _filled(trees: Sequence[ast.AST]) -> set[str]:
    return {node.attr for node in _all(trees) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


def _follow(scope: ast.AST, known: set[str], outer: set[str], found: Touched) -> None:
    """Note what one function touches; the variables of an `outer` one are seen by those it defines."""
    held = set(outer)
    arguments = [*scope.args.args, *scope.args.kwonlyargs] if isinstance(scope, ast.FunctionDef) else []
    for argument in arguments:
        held.discard(argument.arg)
        if _any(argument.annotation):
            held.add(argument.arg)
    inside = list(_inside(scope))
    for _ in range(3):  # a variable may be filled from another that is filled further down
        for node in inside:
            for target, value in _bindings(node):
                untyped = isinstance(node, ast.AnnAssign) and _any(node.annotation)
                if untyped or _holds(value, held, known):
                    _store(target, held, known)
    for node in inside:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            _follow(node, known, held, found)
        else:
            _note(node, held, known, found)


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, and the functions and classes it defines, but not what is in those."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield from _inside(child)


def _any(annotation: ast.expr | None) -> bool:
    text = ast.unparse(annotation).strip("'\"") if annotation else ""
    return text in ("Any", "ModuleType", "ModuleType | None", "tuple[Any, Any]", "Callable[[], Any]")


def _bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _pairs(target, node.value)
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, (ast.For, ast.comprehension)):
        yield node.target, node.iter


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        yield from zip(target.elts, value.elts, strict=True)
    else:
        yield target, value


def _store(target: ast.expr, held: set[str], known: set[str]) -> None:
    if isinstance(target, (ast.Tuple, ast.List)):
        for element in target.elts:
            _store(element, held, known)
    elif isinstance(target, ast.Starred):
        _store(target.value, held, known)
    elif isinstance(target, ast.Name):
        held.add(target.id)
    elif isinstance(target, ast.Attribute) and _is_self(target.value):
        known.add(f".{target.attr}")


def _holds(node: ast.expr, held: set[str], known: set[str]) -> bool:
    """Whether an expression is one of the binding's objects, or made of some."""
    if isinstance(node, ast.Name):
        return node.id in held
    if isinstance(node, ast.Attribute):
        return f".{node.attr}" in known or (not _is_self(node.value) and _holds(node.value, held, known))
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return f"{name}()" in known or _holds(node.func, held, known)
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return _holds(node.elt, held, known)
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(_holds(element, held, known) for element in node.elts)
    return isinstance(node, (ast.Subscript, ast.Starred)) and _holds(node.value, held, known)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _note(node: ast.AST, held: set[str], known: set[str], found: Touched) -> None:
    if isinstance(node, ast.Attribute) and not _is_self(node.value) and _holds(node.value, held, known):
        found.names.add(node.attr)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
        asked, name = node.args[:2]
        if _holds(asked, held, known) and isinstance(name, ast.Constant):
            found.optional.add(str(name.value))
