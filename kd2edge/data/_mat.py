"""Lists of labels in MATLAB's files of level 5: arrays of structs, cells, text and numbers, and nothing else.

MathWorks, "MAT-File Format": a header of 128 bytes, then elements of a type, a length and content; an array's content
is its flags, its size, its name and its values, elements again. Nothing in a file is run.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.errors import UserError

MOST = 1 << 23  # bytes of a file, and that all its elements may unpack to: the largest true list takes four million
DEEPEST = 4
MATRIX, COMPRESSED = 14, 15
KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1", 17: "u2"}
CELL, STRUCT, CHAR, NUMBERS = 1, 2, 4, range(6, 16)
ENCODINGS = {4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}


class _Refused(Exception):
    """Why a file is not read; its message ends a sentence."""


def read_mat(path: Path, name: str, hint: str) -> list[Any]:
    """The elements of the array of this name, by columns: dicts of a struct's fields, text, or numbers.

    Within them an array of one number is that number. Raises `UserError` for a file that is missing or damaged, has no
    such array, or holds what is not understood.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
        if data[124:128] != b"\0\1IM" or len(data) > MOST:
            raise _Refused("it is no MATLAB file of level 5 with labels")
        at, left = 128, MOST
        while at < len(data):
            kind, content, at = _element(data, at)
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, left + 1)
                left -= len(unpacked)
                if left < 0:
                    raise _Refused(f"it unpacks to more than {MOST:,} bytes")
                kind, content, _ = _element(unpacked, 0)
            found, values = _array(content, 0) if kind == MATRIX else ("", [])
            if found == name:
                return values if isinstance(values, list) else [values]
        raise _Refused(f"it has no array {name!r}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", hint) from None
    except (_Refused, zlib.error) as error:
        raise UserError(f"{path} is not read: {error}.", hint) from None


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Type, content, and where the next begins: small ones lie within their own tag, others fill up eight bytes."""
    word, size = struct.unpack_from("<II", data, at) if at + 8 <= len(data) else (0, len(data))
    kind, begin = word & 0xFFFF, at + 8
    if word >> 16:
        size, begin = word >> 16, at + 4
    if begin + size > len(data) or (word >> 16 and size > 4):
        raise _Refused(f"the element at byte {at:,} is not whole")
    filled = 0 if kind == COMPRESSED else -size % 8
    return kind, data[begin : begin + size], at + 8 if word >> 16 else begin + size + filled


def _array(content: bytes, depth: int) -> tuple[str, Any]:
    """Name and value of an array; one without content is empty and has no name."""
    parts, at = [], 0
    while at < len(content):
        kind, part, at = _element(content, at)
        parts.append((kind, part))
    if not parts:
        return "", []
    if len(parts) < 3 or not parts[0][1] or depth > DEEPEST:
        raise _Refused("an array has no size or no name, or lies too deep in others")
    return parts[2][1].decode("latin-1"), _value(parts[0][1][0], parts[3:], depth)


def _value(what: int, parts: list[tuple[int, bytes]], depth: int) -> Any:
    if what == CHAR:
        return b"".join(part for _, part in parts).decode(
            ENCODINGS.get(parts[0][0] if parts else 0, "latin-1"), "replace"
        )
    if what in NUMBERS:
        values = _numbers(*parts[0]) if parts else []
        return values[0] if len(values) == 1 else values
    if what == CELL:
        return [_array(part, depth + 1)[1] for _, part in parts]
    width = _numbers(*parts[0]) if what == STRUCT and len(parts) > 1 else []
    if len(width) != 1 or width[0] not in range(1, 65):
        raise _Refused(f"it holds an array of class {what}, which no list of labels needs")
    text, values = parts[1][1], parts[2:]
    step = int(width[0])  # which any kind of number may say
    fields = [text[i : i + step].split(b"\0")[0].decode("latin-1") for i in range(0, len(text), step)]
    if not fields or len(values) % len(fields):
        raise _Refused("an array of structs lacks a field")
    rows = (values[i : i + len(fields)] for i in range(0, len(values), len(fields)))
    return [{name: _array(part, depth + 1)[1] for name, (_, part) in zip(fields, row, strict=True)} for row in rows]


def _numbers(kind: int, part: bytes) -> list[Any]:
    dtype = np.dtype("<" + KINDS.get(kind, "u1"))
    if kind not in KINDS or len(part) % dtype.itemsize:
        raise _Refused("an array's numbers are not as its type says")
    return list(np.frombuffer(part, dtype).tolist())
