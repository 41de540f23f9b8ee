"""Pickles of images, read without unpickling: a small stack machine that has no way to import or to call anything.

Python's own `pickle` runs what a file tells it to, and allocates what a header claims. Here the few global names that a
pickle of bytes, bools and uint8 arrays needs are understood as what they mean; any other name is refused unread.
Opcodes as documented in the standard library's `pickletools`, protocols 0 to 5.
"""

import codecs
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd2edge.data._unpickle_names import KINDS, MEANINGS, Array, Name, Refused, array_of, call
from kd2edge.errors import UserError

LONGEST_NUMBER, LONGEST_NAME = 20, 80  # characters
UNKNOWN_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\[^\\'\"nrtx]")  # Python 2 writes \\ \' \n \r \t \x7f and no other


def unpickle(path: Path, dicts: bool = False) -> Any:
    """What a pickle of tuples, lists, str, bytes, bools, None, whole numbers and uint8 or bool arrays holds.

    With `dicts` also dicts by name. Strings of Python 2 come as bytes. Raises `UserError` for a file that is missing,
    damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return _Machine(data, {**ACTS, **DICTS} if dicts else ACTS).run()
    except Refused as error:
        raise UserError(f"{path} is not read: {error}.", "it is damaged, or no pickle of images and bools") from None


class _Machine:
    def __init__(self, data: bytes, acts: "dict[bytes, Reader]") -> None:
        self.data, self.at, self.acts = data, 0, acts
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.made = {"bytes": 0, "arrays": 0}  # in bytes: no honest pickle makes more of either than it is long

    def run(self) -> Any:
        while True:
            begun, code = self.at, self.take(1)
            if code == b".":
                return self.pop()
            if code in PUSHES:
                self.stack.append(PUSHES[code](self))
            elif code in self.acts:
                self.acts[code](self)
            else:
                raise Refused(f"byte {begun:,} is the opcode {code!r}, which no image needs")

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Refused(f"it ends within what begins at byte {self.at:,}")
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if value < 0 and form != "<i":
            raise Refused(f"a length before byte {self.at:,} is negative")
        return value

    def sized(self, form: str) -> bytes:
        return self.take(self.number(form))

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Refused(f"it ends within the line at byte {self.at:,}")
        text = self.take(end - self.at)
        self.at += 1
        return text

    def short_line(self, ending: bytes = b"") -> int:
        text = self.line().removesuffix(ending)
        try:
            return int(text) if len(text) <= LONGEST_NUMBER else int("")
        except ValueError:
            raise Refused(f"the line before byte {self.at:,} is no number") from None

    def pop(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise Refused(f"its stack is empty at byte {self.at:,}")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks or self.marks[-1] > len(self.stack):
            raise Refused(f"there is no mark at byte {self.at:,}")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def under_mark(self, target: object) -> list[Any]:
        """What lies above the last mark, with `target` put in its place."""
        items = self.pop_mark()
        self.stack.append(target)
        return items

    def extend(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise Refused(f"something else than a list grows at byte {self.at:,}")
        target += items
        self.stack.append(target)

    def settle(self, items: list[Any]) -> None:
        """Names and what they name, in turn, into the dict beneath them."""
        target, names = self.pop(), items[::2]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"something else than a dict is filled at byte {self.at:,}")
        if not all(isinstance(name, str | bytes) for name in names):
            raise Refused(f"what a dict holds at byte {self.at:,} has no name")
        target.update(zip(names, items[1::2], strict=True))
        self.stack.append(target)

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise Refused(f"what is recalled at byte {self.at:,} was never kept")
        self.stack.append(self.memo[key])

    def remember(self, key: int) -> None:
        self.stack.append(self.pop())  # refuses an empty stack
        self.memo[key] = self.stack[-1]

    def named(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused(f"what it wants to import at byte {self.at:,} has no name")
        meaning = MEANINGS.get((module, name))
        if meaning is None:
            wanted = f"{module}.{name}"[:LONGEST_NAME]
            raise Refused(f"it wants to import {wanted!r}, and nothing may be imported")
        self.stack.append(Name(meaning))

    def reduce(self) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise Refused(f"something is called at byte {self.at:,} that is no function")
        made = call(name.meaning, arguments)
        if name.meaning == "encode":
            self.count("bytes", len(made))
        if isinstance(made, Array) and made.value is not None:
            self.count("arrays", made.value.nbytes)
        self.stack.append(made)

    def count(self, kind: str, made: int) -> None:
        """What many arrays share by recalling it, whoever reads them will copy for each."""
        self.made[kind] += made
        if self.made[kind] > len(self.data):
            raise Refused("it makes more bytes than it holds")

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, kind, columns_first, raw = state
            target.value = array_of(shape, kind, raw, columns_first)
            self.count("arrays", target.value.nbytes)
        elif not (isinstance(target, str) and target in KINDS):  # the state of a dtype says nothing new
            raise Refused(f"something is filled at byte {self.at:,} that is no array")
        self.stack.append(target)


def _text(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise Refused(f"a string of {len(raw):,} bytes is no {encoding}") from None


def _python2(line: bytes) -> bytes:
    """The bytes of a quoted, escaped string of Python 2."""
    try:
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or UNKNOWN_ESCAPE.search(line[1:-1]):
            raise ValueError
        return codecs.escape_decode(line[1:-1])[0]
    except ValueError:
        raise Refused("a string is not quoted as Python 2 quotes one") from None


def _long(machine: _Machine) -> None:
    """A number of up to eight bytes, as Python 2 on Windows writes the sides of an array."""
    raw = machine.sized("<B")
    if len(raw) > 8:
        raise Refused(f"the number before byte {machine.at:,} is too long")
    machine.stack.append(int.from_bytes(raw, "little", signed=True))


def _int(machine: _Machine) -> None:
    """`I01` and `I00` are True and False in protocols 0 and 1."""
    written = machine.data[machine.at : machine.at + 3]
    value = machine.short_line()
    machine.stack.append(bool(value) if written in (b"00\n", b"01\n") else value)


def _tuple(machine: _Machine, count: int) -> tuple[Any, ...]:
    return tuple([machine.pop() for _ in range(count)][::-1])


Reader = Callable[[_Machine], Any]

# Opcodes that push what is read next, and those that do something else; in the order of pickletools' documentation.
PUSHES: dict[bytes, Reader] = {
    b"J": lambda m: m.number("<i"),
    b"K": lambda m: m.number("<B"),
    b"M": lambda m: m.number("<H"),
    b"L": lambda m: m.short_line(b"L"),
    b"S": lambda m: _python2(m.line()),
    b"T": lambda m: m.sized("<I"),
    b"U": lambda m: m.sized("<B"),
    b"B": lambda m: m.sized("<I"),
    b"C": lambda m: m.sized("<B"),
    b"\x8e": lambda m: m.sized("<Q"),
    b"\x96": lambda m: m.sized("<Q"),
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"V": lambda m: _text(m.line(), "raw-unicode-escape"),
    b"\x8c": lambda m: _text(m.sized("<B"), "utf-8"),
    b"X": lambda m: _text(m.sized("<I"), "utf-8"),
    b"\x8d": lambda m: _text(m.sized("<Q"), "utf-8"),
    b"]": lambda m: [],
    b"l": lambda m: m.pop_mark(),
    b")": lambda m: (),
    b"t": lambda m: tuple(m.pop_mark()),
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
}
ACTS: dict[bytes, Reader] = {
    b"I": _int,
    b"\x8a": _long,
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_mark()),
    b"0": lambda m: m.pop(),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"1": lambda m: m.pop_mark(),
    b"g": lambda m: m.recall(m.short_line()),
    b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"p": lambda m: m.remember(m.short_line()),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"c": lambda m: m.named(_text(m.line(), "latin-1"), _text(m.line(), "latin-1")),
    b"\x93": lambda m: m.named(*_tuple(m, 2)),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
    b"\x80": lambda m: m.take(1),  # the protocol's number and the length of a frame say nothing new
    b"\x95": lambda m: m.take(8),
}
DICTS: dict[bytes, Reader] = {
    b"}": lambda m: m.stack.append({}),
    b"d": lambda m: m.settle(m.under_mark({})),
    b"s": lambda m: m.settle([*_tuple(m, 2)]),
    b"u": lambda m: m.settle(m.pop_mark()),
}
