"""Damage by design: bytes, JSON and protobuf messages changed at random, and alike again from the same seed."""

import copy
import json
import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

NUMBERS = (0, -1, 1, 2, 255, 256, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63))
TEXTS = ("", "..", "../../etc/passwd", "/dev/zero", "a\0b", "\x1b[2J\n", "ä" * 300, "\\", "x" * 5000, "NaN", "%s%n")
ODD: tuple[Any, ...] = (None, True, 1e308, -0.0, [], {}, [[]], {"": {}}, [None] * 100, *NUMBERS, 10**4000, *TEXTS)


def bytes_of(whole: bytes, chance: random.Random, other: bytes = b"") -> bytes:
    """One to three changes: bits, a cut, an insertion, a doubled or a lost piece, or a piece of `other`."""
    made = bytearray(whole)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.randrange(len(made) + 1)
        length = chance.choice((1, 2, 4, 8, 64, 1024))
        kind = chance.randrange(7)
        if kind <= 1 and made:
            made[place % len(made)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del made[place:]
        elif kind == 3:
            made[place:place] = chance.randbytes(length)
        elif kind == 4:
            made[place:place] = made[place : place + length]
        elif kind == 5:
            del made[place : place + length]
        else:
            start = chance.randrange(len(other) + 1)
            made[place : place + length] = other[start : start + length]
    return bytes(made)


def json_of(whole: bytes, chance: random.Random) -> bytes:
    """One to three values replaced, lost, renamed, doubled or moved elsewhere; or nested beyond all reason."""
    document = json.loads(whole)
    for _ in range(chance.choice((1, 1, 2, 3))):
        holders = list(_holders(document))
        holder = chance.choice(holders)
        key: Any = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        kind = chance.randrange(6)
        if kind <= 1:
            holder[key] = copy.deepcopy(chance.choice(ODD))
        elif kind == 2:
            del holder[key]
        elif kind == 3:
            holder[key] = copy.deepcopy(chance.choice(holders))
        elif kind == 4 and isinstance(holder, dict):
            holder[chance.choice(TEXTS)] = holder.pop(key)
        elif isinstance(holder[key], str | int):
            holder[key] = holder[key] * 2 if not isinstance(holder[key], bool) else [holder[key]]
    text = json.dumps(document)
    if chance.random() < 0.1:
        place = chance.randrange(len(text))
        text = text[:place] + chance.choice(("[" * 50_000, '{"a":' * 5_000, "9" * 100_000, '"\\ud800"')) + text[place:]
    return text.encode()


def _holders(value: Any) -> Any:
    """Every object and list that holds anything."""
    if isinstance(value, dict | list) and value:
        yield value
        for inner in list(value.values() if isinstance(value, dict) else value):
            yield from _holders(inner)


def message_of(whole: Message, chance: random.Random) -> bytes:
    """One to four fields of a message, or of any within it, set to what they should not be, doubled, lost or moved."""
    made = copy.deepcopy(whole)
    for _ in range(chance.choice((1, 1, 2, 4))):
        message = chance.choice(list(_messages(made)))
        field = chance.choice(message.DESCRIPTOR.fields)
        if field.is_repeated:
            _change_list(getattr(message, field.name), field, chance)
        elif field.message_type:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, _value(field, chance))
    return bytes(made.SerializeToString())


def _messages(message: Message) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _change_list(values: Any, field: FieldDescriptor, chance: random.Random) -> None:
    kind = chance.randrange(3) if len(values) else 3
    place = chance.randrange(len(values)) if len(values) else 0
    if kind == 0:
        del values[place]
    elif kind == 1 and field.message_type:
        values.add().CopyFrom(values[place])
    elif kind == 2 and field.message_type:
        other = copy.deepcopy(values[chance.randrange(len(values))])
        values[place].CopyFrom(other)
    elif field.message_type:
        values.add()
    elif kind == 2:
        values[place] = _value(field, chance)
    else:
        values.append(_value(field, chance))


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    """Something of the field's type, at its edges."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([value.number for value in field.enum_type.values])
    bits = 32 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    signed = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return min(max(chance.choice(NUMBERS), low), high)
