"""What an ONNX file holds and where it points, told from its bytes before any parser makes room for it.

A tensor may lie in another file, by a path that the model names; functions may call functions until a graph of a few
kilobytes expands to billions of nodes; and two bytes on disk can become a hundred in memory. The walk visits every
message that can hold a tensor (field numbers of onnx.proto3, which a test compares with the installed `onnx`) and skips
the rest. It reads what a parser may read and more, never less: a field given twice is looked at twice.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kd2edge.artifact import read_verified, signature_required
from kd2edge.errors import UserError, first_line
from kd2edge.files import inside

LARGEST = (1 << 31) - 1  # bytes of a protobuf message, by its own limit
STRUCTURE = 16 << 20  # bytes that are no weights; those of ResNet-152 are a tenth of a MiB
FIELDS, NODES, DEPTH = 1_000_000, 100_000, 64

MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, FUNCTION, TRAINING, ENTRY = (
    "ModelProto",
    "GraphProto",
    "NodeProto",
    "AttributeProto",
    "TensorProto",
    "SparseTensorProto",
    "FunctionProto",
    "TrainingInfoProto",
    "StringStringEntryProto",
)
INNER = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    TRAINING: {1: GRAPH, 2: GRAPH},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    TENSOR: {13: ENTRY},
}
WEIGHTS = (4, 5, 6, 7, 9, 10, 11)  # fields of a tensor that are its numbers
DATA_LOCATION, EXTERNAL = 14, 1
KEY, VALUE = 1, 2
PLACE = {"location", "offset", "length", "checksum"}  # what onnx.proto3 lets a tensor say of its place
IN_MEMORY = "_ORT_MEM_ADDR_"  # in a location: ONNX Runtime's own mark of an address, of which no file can know
CALLED = {NODE: (7, 4, 8), FUNCTION: (10, 1, 13)}  # domain, name, overload of what is called, and of what is defined

Buffer = bytes | mmap.mmap


@dataclass
class Body:
    """The main graph or a function, by what its nodes call: domain, name and overload of each."""

    name: list[str] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)


def require_safe(path: Path) -> None:
    """Raise `UserError` for an ONNX file that no parser should be given: damaged, a bomb, or pointing elsewhere.

    Weights may lie in other files of its folder, by plain relative names, all of them within those files.
    """
    if not path.is_file():
        raise UserError(f"There is no ONNX file {path}.")
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(f"{path} has {size:,} bytes, and an ONNX file at most {LARGEST:,}.", "keep weights beside it")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _walked(content, path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as ONNX: {error}.", "it is damaged or no ONNX file") from error
    total = sum(_bytes_of(told, path) for told in found)
    if total > LARGEST:
        raise UserError(f"{path} keeps {total:,} bytes of weights in other files, and at most {LARGEST:,} are read.")


def require_valid(path: Path) -> None:
    """Raise `UserError` as `require_safe` does, and for what the rules of ONNX forbid.

    For parsers that rely on it: TensorRT's ends the process by a signal at a node without its output, or at an
    attribute whose type and value do not agree (met with TensorRT for RTX 1.7.1).
    """
    require_safe(path)
    import onnx.checker  # not above: whoever only measures a file needs none of it

    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a valid ONNX model: {first_line(error)}.", "it is damaged: make it again"
        ) from error


def openable(path: Path, require_signature: bool = False) -> str | bytes:
    """What ONNX Runtime is given of a safe file: its path, or where a signature is required the bytes that it is of.

    Raises `UserError` as `require_safe` does, and where a signature is required as `read_verified` and `require_whole`.
    """
    if require_signature or signature_required():
        content = read_verified(path, require_signature=True)[1]
        require_whole(content, path)
        return content
    require_safe(path)
    return str(path)


def require_whole(content: bytes, path: Path) -> None:
    """Raise `UserError` as `require_safe` does for the content of `path`, and where any weights are not in it.

    What lies in other files is not covered by the sha256, and so not by the signature, of this one.
    """
    try:
        found = _walked(content, path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as ONNX: {error}.", "it is damaged or no ONNX file") from error
    if found:
        raise UserError(f"{path} keeps weights in another file, which its manifest does not vouch for.")


def _walked(content: Buffer, path: Path) -> list[dict[str, str]]:
    """What each external tensor says of its place. Raises ValueError for what is no message, `UserError` for a bomb."""
    walk = _Walk(content)
    walk.all()
    structure = len(content) - walk.weights
    if structure > STRUCTURE:
        raise UserError(
            f"{path} holds {structure >> 20} MiB beside its weights, and at most {STRUCTURE >> 20} are read."
        )
    nodes = _expanded(walk.bodies)
    if nodes > NODES:
        raise UserError(f"{path} has more than {NODES:,} nodes once its functions are expanded.")
    return walk.external


class _Walk:
    """One pass over a ModelProto. Raises ValueError for what is no message, or more of it than is ever needed."""

    def __init__(self, content: Buffer) -> None:
        self.content = content
        self.external: list[dict[str, str]] = []
        self.bodies = [Body()]  # the main graph first
        self.weights = self.fields = self.nodes = 0

    def all(self) -> None:
        waiting = [(MODEL, 0, len(self.content), self.bodies[0], 0)]
        while waiting:
            kind, start, end, body, depth = waiting.pop()
            if depth > DEPTH:
                raise ValueError(f"its messages are nested more than {DEPTH} deep")
            if kind == FUNCTION:
                body = Body()
                self.bodies.append(body)
            called = ["", "", ""]
            if kind == TENSOR:
                self._tensor(start, end)
                continue
            for number, value, first, last in self._message(start, end):
                inner = INNER[kind].get(number)
                if value is None and inner is not None:
                    self.nodes += inner == NODE
                    if self.nodes > NODES:
                        raise ValueError(f"it has more than {NODES:,} nodes")
                    waiting.append((inner, first, last, body, depth + 1))
                if value is None and number in CALLED.get(kind, ()):
                    text = self._text(first, last)
                    called[CALLED[kind].index(number)] = "" if text == "ai.onnx" else text
            if kind == FUNCTION:
                body.name = called
            if kind == NODE:
                body.calls.append(called)

    def _tensor(self, start: int, end: int) -> None:
        external, told = False, dict[str, str]()
        for number, value, first, last in self._message(start, end):
            if number in WEIGHTS:
                self.weights += last - first
            elif number == DATA_LOCATION and value == EXTERNAL:
                external = True
            elif number in INNER[TENSOR] and value is None:
                external = True
                texts = {n: self._text(a, b) for n, v, a, b in self._message(first, last) if v is None}
                key = texts.get(KEY, "")
                if key in told:
                    raise ValueError(f"a tensor tells its {key!r} twice")
                told[key] = texts.get(VALUE, "")
        if external:
            self.external.append(told)

    def _message(self, start: int, end: int) -> Iterator[tuple[int, int | None, int, int]]:
        """Field number, its value (None for bytes), and where bytes begin and end."""
        while start < end:
            self.fields += 1
            if self.fields > FIELDS:
                raise ValueError(f"it has more than {FIELDS:,} fields beside its weights")
            tag, start = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            value: int | None = 0
            first = start
            if wire == 0:
                value, start = self._varint(start, end)
            elif wire in (1, 5):
                start += 8 if wire == 1 else 4
            elif wire == 2:
                length, first = self._varint(start, end)
                start, value = first + length, None
            else:
                raise ValueError(f"byte {first} is of no field")
            if number == 0 or start > end:
                raise ValueError(f"the field at byte {first} does not end where it should")
            yield number, value, first, start

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if start >= end:
                break
            byte = self.content[start]
            start += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, start
        raise ValueError(f"the number at byte {start} does not end")

    def _text(self, first: int, last: int) -> str:
        if last - first > 4096:
            raise ValueError(f"the name at byte {first} has {last - first} bytes")
        return bytes(self.content[first:last]).decode("utf-8", "backslashreplace")


def _expanded(bodies: list[Body]) -> int:
    """The nodes of the main graph with every function put in where it is called; more than `NODES` if it never ends."""
    known = {tuple(body.name): body for body in bodies[1:]}
    counted: dict[tuple[str, ...], int] = {}

    def count(body: Body, above: tuple[tuple[str, ...], ...]) -> int:
        total = 0
        for name in map(tuple, body.calls):
            if name in above or len(above) > DEPTH:
                return NODES + 1
            if name in known and name not in counted:
                counted[name] = count(known[name], (*above, name))
            total += counted.get(name, 0) + 1
            if total > NODES:
                break
        return total

    return count(bodies[0], ())


def _bytes_of(told: dict[str, str], path: Path) -> int:
    """How many bytes an external tensor takes. Raises `UserError` where its place is not within a file there."""
    location = told.get("location", "")
    file = inside(path.parent, location)
    if IN_MEMORY in location.split("/"):
        raise UserError(f"{path} says that its weights lie in the memory of its reader.")
    if not set(told) <= PLACE:
        raise UserError(f"{path} says of its weights in {location!r} what no reader understands.")
    if not file.is_file():
        raise UserError(f"{path} keeps weights in {location!r} beside it, and there is no such file.")
    size = file.stat().st_size
    offset, length = (_number(told.get(key, "0"), path) for key in ("offset", "length"))
    taken = length if "length" in told else max(size - offset, 0)
    if offset + taken > size:
        raise UserError(f"{path} reads {location!r} up to byte {offset + taken:,}, and it has {size:,}.")
    return taken


def _number(text: str, path: Path) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UserError(f"{path} tells the place of its weights by {text[:40]!r}, which is no number.")
    return int(text)
