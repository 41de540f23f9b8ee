"""Where a far machine is: ssh://[user@]host[:port][/folder]; `/~/folder` begins at the user's home."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from kd2edge.errors import UserError

HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?")
USER = re.compile(r"[A-Za-z0-9_.\\@][A-Za-z0-9_.\\@$+-]*")


@dataclass(frozen=True)
class Address:
    """`folder` is where kits and what they need lie, "" for ~/.cache/kd2edge of the far side."""

    host: str
    user: str | None = None
    port: int | None = None
    folder: str = ""

    @property
    def shown(self) -> str:
        """`user@host`, as people and ssh name it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def room(self) -> str:
        return self.folder or "~/.cache/kd2edge"


def parse(address: str) -> Address:
    """Raises `UserError` for what is no such address, or holds a password."""
    hint = "ssh://user@host, ssh://user@host:2222/folder"
    try:
        found = urlsplit(address)
        port = found.port
    except ValueError as error:
        raise UserError(f"{address!r} is no address: {error}.", hint) from None
    if found.scheme != "ssh" or found.query or found.fragment:
        raise UserError(f"{address!r} is no address of the form ssh://[user@]host[:port][/folder].", hint)
    if found.password is not None:
        raise UserError("An address holds no password: ssh would not take it.", "ssh-copy-id user@host")
    host, user = _host(found.netloc), unquote(found.username or "")
    if not HOST.fullmatch(host) or (user and not USER.fullmatch(user)):
        raise UserError(f"{address!r} names no host that ssh could be asked for.", hint)
    folder = unquote(found.path).rstrip("/")
    if not folder.isprintable():
        raise UserError(f"The folder of {address!r} cannot be printed.", hint)
    return Address(host, user or None, port, folder[1:] if folder.startswith("/~") else folder)


def _host(netloc: str) -> str:
    """As it is written: urllib has it in small letters, while a name in ssh's configuration may have others."""
    place = netloc.rpartition("@")[2]
    return unquote(place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0])
