"""Where the files of a tar lie, found by its headers alone: nothing is unpacked, so no name in it leads anywhere.

POSIX.1-2017, pax: blocks of 512 bytes, a header before each file, two blocks of zeros at the end. Of extensions, longer
names and sizes are understood. Links, devices and sparse files are refused, as no archive of images needs them.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from kd2edge.errors import UserError

BLOCK = 512
ZEROS = bytes(BLOCK)
FILES, FOLDER, PAX, PAX_ALL, LONG_NAME = (b"0", b"\0", b"7"), b"5", b"x", b"g", b"L"
KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}
LONGEST = 1 << 16  # bytes of an extension
PADDING = 1 << 20  # bytes of zeros after the end: tar fills up its last record, of 10,240 as a rule


class Member(NamedTuple):
    """A file of a tar: where its bytes begin, from the beginning of the file read, and how many there are."""

    name: str
    offset: int
    size: int


class Extensions(NamedTuple):
    """What an extension says of the next file; None where it says nothing."""

    name: str | None = None
    size: int | None = None


def members(file: BinaryIO, begin: int, end: int, what: str) -> Iterator[Member]:
    """The files of the tar that lies in bytes `begin` to `end` of a file, in order; `what` names it.

    Raises `UserError`, naming the member, for a tar that is cut or damaged, for names that are absolute or climb by
    "..", and for members that are neither files nor folders.
    """
    at, name, said = begin, "its beginning", Extensions()
    while True:
        header = _read(file, at, min(BLOCK, max(0, end - at)))
        if header == ZEROS:
            _refuse_more(file, at, end, what)
            return
        if len(header) < BLOCK:
            raise UserError(f"{what} is cut: it ends after {name} without the mark of its end.", "take it anew")
        if not _sums(header):
            raise UserError(f"{what} is damaged: what follows {name} is no header of a tar.", _hint(header))
        kind, size = header[156:157], _size(header, said, what)
        offset, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        name = repr((said.name or _name(header))[:200])
        if offset + size > end:
            raise UserError(f"{what} is cut: {name} claims {size:,} bytes, beyond its end.", "take it anew")
        if kind in (PAX, PAX_ALL, LONG_NAME):
            if size > LONGEST:
                raise UserError(f"{what} is damaged: the extension {name} is of {size:,} bytes.", "take it anew")
            content = _read(file, offset, size)
            if kind == LONG_NAME:
                said = said._replace(name=content.split(b"\0")[0].decode("utf-8", "replace"))
            else:
                told = _pax(content, name, what)
                said = told if kind == PAX else said
            continue
        full, said = said.name or _name(header), Extensions()
        _refuse_name(full, what)
        if kind in FILES and not full.endswith("/"):
            yield Member(full, offset, size)
        elif kind != FOLDER and kind not in FILES:
            odd = KINDS.get(kind, f"something of kind {kind!r}")
            raise UserError(f"{what} holds {odd}, {name}.", "make it anew of plain files")


def name_before(block: bytes) -> str:
    """The name in the header that precedes a file's bytes, its last hundred characters; "" if that is no header."""
    return _name(block) if len(block) == BLOCK and _sums(block) else ""


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _refuse_more(file: BinaryIO, at: int, end: int, what: str) -> None:
    """Raise `UserError` where something follows the end: two tars, one behind the other, of which one would be lost."""
    rest = end - at
    if rest > PADDING or _read(file, at, rest).count(0) != rest:
        raise UserError(
            f"{what} goes on after its end, at byte {at:,}.", "was it made of several? Then keep them apart"
        )


def _sums(header: bytes) -> bool:
    """The sum of a header's bytes, its own place taken as blanks."""
    said = header[148:156].strip(b"\0 ")
    return bool(said) and _octal(said) and int(said, 8) == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _octal(digits: bytes) -> bool:
    return not digits.strip(b"01234567")


def _size(header: bytes, said: Extensions, what: str) -> int:
    """In octal digits, or beyond eight gigabytes as GNU's big-endian number."""
    if said.size is not None:
        return said.size
    field = header[124:136]
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    if not _octal(digits):
        raise UserError(f"{what} is damaged: {_name(header)!r} has no size.", "take it anew")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax(content: bytes, name: str, what: str) -> Extensions:
    """Records of a length, a key and a value. Times, owners and the like say nothing of where bytes lie."""
    found, at = Extensions(), 0
    while at < len(content):
        length, blank, _ = content[at : at + 8].partition(b" ")
        size = int(length) if blank and length.isdigit() else 0
        key, equals, value = content[at + len(length) + 1 : at + size - 1].partition(b"=")
        if not equals or content[at + size - 1 : at + size] != b"\n" or key.startswith(b"GNU.sparse"):
            raise UserError(f"{what} has an extension that is not understood, {name}.", "make it anew of plain files")
        if key == b"path":
            found = found._replace(name=value.decode("utf-8", "replace"))
        if key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise UserError(f"{what} is damaged: the extension {name} says no size.", "take it anew")
            found = found._replace(size=int(value))
        at += size
    return found


def _refuse_name(name: str, what: str) -> None:
    if not name:
        raise UserError(f"{what} is damaged: a member has no name.", "take it anew")
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{what} holds {name[:200]!r}, which leads out of any folder.", "make it anew with plain names")


def _hint(header: bytes) -> str:
    if header[:2] == b"\x1f\x8b" or header[:4] == b"\x28\xb5\x2f\xfd" or header[:3] == b"BZh":
        return "it is compressed, and only plain tars can be read at any place: decompress it"
    return "take it anew"
