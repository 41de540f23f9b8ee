"""The few global names in a pickle of bytes, bools and uint8 arrays: understood as what they mean, never looked up."""

from dataclasses import dataclass
from typing import Any

import numpy as np


class Refused(Exception):
    """Why a pickle is not read; its message ends a sentence."""


@dataclass(frozen=True)
class Name:
    """A global name that is understood: what it is for the machine, never the object of that name."""

    meaning: str


@dataclass
class Array:
    """An array while it is described; `value` once its bytes are known."""

    value: Any = None


MEANINGS = {
    ("_codecs", "encode"): "encode",  # Python 3 writes bytes so in protocols 0 to 2
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytearray"): "bytes",
    ("builtins", "bytearray"): "bytes",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}
for _core in ("numpy.core", "numpy._core"):
    MEANINGS[_core + ".multiarray", "_reconstruct"] = "array"
    MEANINGS[_core + ".multiarray", "scalar"] = "scalar"
    MEANINGS[_core + ".numeric", "_frombuffer"] = "buffer"

KINDS = {"u1": np.uint8, "b1": np.bool_}


def call(meaning: str, arguments: tuple[Any, ...]) -> Any:
    """What calling the thing of that name would give."""
    match meaning, arguments:
        case "encode", (str(text), "latin1" | "latin-1" | "iso-8859-1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                raise Refused("a string that should be bytes has letters beyond them") from None
        case "bytes", ():
            return b""
        case "bytes", (bytes(raw),):
            return raw
        case "dtype", (str() | bytes() as kind, *_):
            kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
            if kind.lstrip("|") in KINDS:
                return kind.lstrip("|")
            raise Refused(f"it holds an array of {kind[:20]!r}, not of uint8 or bool")
        case "array", (Name("ndarray"), *_):
            return Array()
        case "scalar", (str(kind), bytes(raw)):
            return array_of((), kind, raw, False).item()
        case "buffer", (bytes(raw), str(kind), tuple(shape), order):
            return Array(array_of(shape, kind, raw, order == "F"))
    raise Refused(f"{meaning!r} is called in a way that no pickle of images does")


def array_of(shape: Any, kind: Any, raw: Any, columns_first: Any) -> Any:
    if not isinstance(raw, bytes) or not isinstance(kind, str) or kind not in KINDS or not isinstance(shape, tuple):
        raise Refused("an array is described in a way that none of uint8 or bool is")
    whole = len(shape) <= 4 and all(type(side) is int and 0 <= side <= len(raw) for side in shape)
    if not whole or int(np.prod(shape, dtype=object)) != len(raw):
        raise Refused(f"an array of {len(raw):,} bytes claims another shape")
    return np.frombuffer(raw, KINDS[kind]).reshape(shape, order="F" if columns_first else "C")
