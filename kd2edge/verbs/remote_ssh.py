"""Talking to a far machine by the ssh that is installed: a Python program goes there on stdin, its answers come back.

Nothing that a user may choose stands in the far shell's command line: the program reads its request from stdin. Host
keys are never accepted here, and no password is asked for.
"""

import json
import os
import re
import secrets
import shlex
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

from typing_extensions import Self

from kd2edge.edge import exchange
from kd2edge.errors import UserError
from kd2edge.verbs.remote_address import Address

COMMAND = "KD2EDGE_SSH"  # the ssh to use, with options if wanted: `ssh -F my_config`
OPTIONS = (
    *("-T", "-x", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3", "-o", "ClearAllForwardings=yes"),
    *("-a", "-o", "RemoteCommand=none"),  # whatever a user's own configuration gives to people: the agent, a shell
    # nor does it weaken the host key: by a connection that is open already, by DNS, or since the host is this one
    *("-o", "ControlPath=none", "-o", "VerifyHostKeyDNS=no", "-o", "NoHostAuthenticationForLocalhost=no"),
)
LOST, ABSENT = 255, (126, 127)  # statuses of ssh, and of a shell without the program
LONGEST = 1 << 22  # bytes of one line of an answer
NOISE = 1000  # lines that a login may print first
SAID = 1 << 16  # bytes of what ssh and the far side say on stderr, the last of them


class Lost(Exception):
    """The connection was lost, or never came about. `heard` says whether the far side had answered by then."""

    def __init__(self, why: str, heard: bool) -> None:
        super().__init__(why)
        self.heard = heard


class Talk:
    """One program at work on the far side, over a connection of its own."""

    def __init__(self, address: Address, program: ModuleType, request: Mapping[str, Any]) -> None:
        self.address = address
        self.heard = False
        self._said = bytearray()
        source = Path(str(program.__file__)).read_bytes()
        mark = f"kd2edge-{secrets.token_hex(8)}"
        self._process = _started(ssh_command(address, mark, len(source)))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        try:
            self.write(source + json.dumps(dict(request)).encode() + b"\n")
            self._await(mark.encode())
        except BaseException:
            self.close()
            raise

    def write(self, content: bytes) -> None:
        """Raises as `fail` where the far side takes nothing any more, unless it still has something to say."""
        try:
            self._in.write(content)
            self._in.flush()
        except (BrokenPipeError, ValueError):
            line = self._out.readline(LONGEST)
            raise_fault(parsed(line), self.address)
            self.fail()

    def beat(self) -> None:
        """A sign of life; that nobody takes it is for the reader to say."""
        self._in.write(b"\n")
        self._in.flush()

    def answer(self) -> dict[str, Any]:
        """The next line. Raises `UserError` where it tells of a fault, and as `fail` where there is none."""
        line = self._out.readline(LONGEST)
        if not line.endswith(b"\n"):
            self.fail()
        told = parsed(line)
        self.heard = True
        raise_fault(told, self.address)
        return told

    def line(self) -> bytes:
        """The next line as it is, b"" at the end."""
        line = self._out.readline(LONGEST)
        self.heard = self.heard or bool(line)
        return line

    def read(self, most: int) -> bytes:
        """At most so many bytes of a file. Raises as `fail` where none come."""
        block = self._out.read(min(most, 1 << 20))
        if not block:
            self.fail()
        return block

    def fail(self) -> None:
        """Say why the far side is silent: `Lost`, or a `UserError` for what no second try would mend."""
        self._close_pipes()
        try:
            status = self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = LOST
        self._listener.join(timeout=10)
        raise _why(status, self._said.decode(errors="replace"), self.address, self.heard)

    def close(self) -> None:
        self._close_pipes()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        """Keep the end of what comes on stderr: a pipe that nobody reads fills up, a file would take the whole disk."""
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            while block := pipe.read1(SAID):  # type: ignore[attr-defined]
                self._said += block
                del self._said[:-SAID]

    def _await(self, mark: bytes) -> None:
        """Pass over what a login prints before our program runs."""
        for _ in range(NOISE):
            line = self._out.readline(LONGEST)
            if line.strip() == mark:
                return
            if not line:
                self.fail()
        raise UserError(f"{self.address.shown} prints without end when a command is run there.", "mend its .bashrc")

    def _close_pipes(self) -> None:
        with suppress(BrokenPipeError):
            self._in.close()
        self._out.close()


def ssh_command(address: Address, mark: str, size: int) -> list[str]:
    """What runs a program of `size` bytes on stdin on the far side, which says `mark` when it is there."""
    words = _ssh()
    place = ["-p", str(address.port)] if address.port else []
    user = ["-l", address.user] if address.user else []
    code = f'import sys;print("{mark}",flush=True);exec(compile(sys.stdin.buffer.read({size}),"kd2edge","exec"))'
    there = shlex.join(["exec", "python3", "-I", "-u", "-c", code])
    return [*words, *OPTIONS, *place, *user, "--", address.host, there]


def _ssh() -> list[str]:
    try:
        words = shlex.split(os.environ.get(COMMAND) or "ssh")
    except ValueError:
        words = []
    if not words:
        raise UserError(f"${COMMAND} is no command.", f'for one: {COMMAND}="ssh -F my_config"')
    return words


def _started(command: list[str]) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        told = f"{printable(command[0])} cannot be started: {error.strerror or error}."
        raise UserError(told, f"install OpenSSH's client, or name it by ${COMMAND}") from None


def hello(address: Address) -> dict[str, Any]:
    """The far side's `python` [3, N], `machine`, and `libc`, the version of glibc or None.

    Raises `UserError` where it cannot be reached, or its Python is too old.
    """
    try:
        with Talk(address, exchange, {"do": "hello"}) as talk:
            found = talk.answer()
    except Lost as lost:
        raise UserError(f"{address.shown} cannot be reached: {lost}.", f"try: ssh {address.shown} true") from None
    version: Any = found.get("python")
    machine, libc = found.get("machine"), found.get("libc")
    sound = _is_version(version) and (libc is None or _is_version(libc))
    if not sound or not isinstance(machine, str) or not re.fullmatch(r"\w{1,32}", machine):
        raise UserError(f"{address.shown} does not say what machine it is.")
    if tuple(version) < (3, 10):
        raise UserError(f"{address.shown} has Python {version[0]}.{version[1]}; kd2edge needs 3.10 or newer.")
    return found


def _is_version(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(type(part) is int and 0 <= part < 1000 for part in found)


def parsed(line: bytes) -> dict[str, Any]:
    """The JSON object on a line, {} where there is none."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def raise_fault(told: Mapping[str, Any], address: Address) -> None:
    """Raise the `UserError` that a line of the far side tells of, if it does."""
    if "fault" not in told:
        return
    place = f" ({printable(told['path'])})" if "path" in told else ""
    if told.get("full"):
        raise UserError(f"The disk of {address.shown} is full{place}.", "free some space there, then the same command")
    hint = printable(told["hint"]) if told.get("hint") else None
    raise UserError(f"{address.shown}: {printable(told['fault'])}{place}", hint)


def printable(told: object, most: int = 500) -> str:
    """What a far side says, without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in str(told)[:most])


def _why(status: int, said: str, address: Address, heard: bool) -> Exception:
    lines = [printable(line) for line in said.splitlines() if line.strip()]
    port = f"-p {address.port} " if address.port else ""
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return UserError(
            f"The host key of {address.shown} is not the one that is known: it may be another machine that answers.",
            f"ask why it changed; only then: ssh-keygen -R and ssh {port}{address.shown}",
        )
    if "Host key verification failed" in said or "host key is known for" in said:
        return UserError(
            f"The host key of {address.shown} is not known, and no unknown one is accepted here.",
            f"compare its fingerprint with the machine's own and accept it: ssh {port}{address.shown}",
        )
    if "Permission denied" in said and status == LOST:
        return UserError(f"{address.shown} refuses to log in without a password.", f"ssh-copy-id {port}{address.shown}")
    if status in ABSENT:
        return UserError(f"{address.shown} has no python3: {lines[-1] if lines else status}.", "install Python 3.10")
    if status == LOST and not lines:  # of a connection that it lost ssh tells
        return UserError(
            f"The work on {address.shown} was killed (out of memory?).", "the same command goes on with what is kept"
        )
    if status == LOST:
        return Lost(lines[-1].rstrip("."), heard)
    return UserError(f"{address.shown} failed (status {status}): {lines[-1] if lines else 'it said nothing'}")
