"""A real sshd on loopback with keys and a known_hosts of its own, without any right that its user has not.

It is the system's, else Debian's package, unpacked into a cache. As root, which sshd then wants a user and a folder of
the system for, it runs in a mount namespace that has them; elsewhere nothing is needed.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

PACKAGES = ("openssh-server", "libwrap0")
CACHE = Path(tempfile.gettempdir()) / f"kd2edge-tests-sshd-{os.getuid()}"
IN_NAMESPACE = """
set -e
mount -t tmpfs none /run; mkdir /run/sshd
cp /etc/passwd '{root}/passwd'
grep -q ^sshd: '{root}/passwd' || echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >> '{root}/passwd'
mount --bind '{root}/passwd' /etc/passwd
{more}
exec "$@"
"""


@dataclass(frozen=True)
class Sshd:
    """`address` is what the product takes, `command` what it runs ssh by (KD2EDGE_SSH); `home` is the far side's."""

    port: int
    root: Path
    command: str
    home: Path

    @property
    def address(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"


def binary() -> tuple[Path, Path | None]:
    """sshd, and the folder of the libraries it needs beside the system's. Skips where it cannot be had."""
    for found in (Path("/usr/sbin/sshd"), CACHE / "usr/sbin/sshd"):
        if found.is_file():
            return found, None if found.is_relative_to("/usr") else _libraries()
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("no sshd here, and no apt-get to fetch one")
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["apt-get", "download", *PACKAGES], cwd=CACHE, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"no sshd here, and the Debian archive does not answer: {done.stderr.strip()[-200:]}")
    for package in CACHE.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, CACHE], check=True)
    return CACHE / "usr/sbin/sshd", _libraries()


def _libraries() -> Path:
    return next((CACHE / "usr/lib").glob("*-linux-gnu"), CACHE / "usr/lib")


@contextmanager
def serving(root: Path, path: str, more: str = "") -> Iterator[Sshd]:
    """An sshd whose far side has `path` as its PATH, and a HOME of its own; `more` is run in its shell before.

    Skips where it does not start.
    """
    sshd, libraries = binary()
    root.mkdir(parents=True, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    home = root / "a user's home"
    home.mkdir()
    (root / "authorized").write_text((root / "user.pub").read_text())
    port = free_port()
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized\n"
        f"PidFile {root}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f'SetEnv PATH="{path}" HOME="{home}" XDG_CACHE_HOME= PYTHONPATH=\n'
    )
    known_hosts(root, port, (root / "host.pub").read_text())
    user = pwd.getpwuid(os.getuid()).pw_name
    (root / "ssh_config").write_text(
        f"User {user}\nIdentityFile {root}/user\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {root}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
    )
    command = [str(sshd), "-D", "-e", "-f", str(root / "sshd_config")]
    if os.getuid() == 0:
        script = IN_NAMESPACE.format(root=root, more=more)
        command = ["unshare", "-m", "sh", "-c", script, "sh", *command]
    elif more:
        command = ["sh", "-c", f'{more}\nexec "$@"', "sh", *command]
    environment = dict(os.environ, **({"LD_LIBRARY_PATH": str(libraries)} if libraries else {}))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _await(port, process, root / "log")
        yield Sshd(port, root, f"ssh -F {root}/ssh_config", home)
    finally:
        process.terminate()
        process.wait()


def known_hosts(root: Path, port: int, key: str, add: bool = False) -> None:
    """What the client knows of the host on a port."""
    with (root / "known_hosts").open("a" if add else "w") as file:
        file.write(f"[127.0.0.1]:{port} {' '.join(key.split()[:2])}\n")


def _await(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text(errors='replace').strip()[-300:]}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    process.kill()
    pytest.skip("sshd does not answer")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Proxy:
    """Between a client and the host: connection number n is cut after `limits[n]` bytes towards the host.

    Later ones are not, but for `cut`, which ends all that are open.
    """

    def __init__(self, port: int, limits: list[int]) -> None:
        self._host, self._limits = port, iter(limits)
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.port: int = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in (self._server, *self._open):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                host = socket.create_connection(("127.0.0.1", self._host))
                self.connections += 1
                self._open += [client, host]
                limit = next(self._limits, None)
                self._start(partial(_pump, client, host, limit))
                self._start(partial(_pump, host, client, None))

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()


def _pump(source: socket.socket, sink: socket.socket, most: int | None) -> None:
    with suppress(OSError):
        while block := source.recv(1 << 16):
            if most is not None:
                block = block[:most]
                most -= len(block)
            sink.sendall(block)
            if most == 0:
                break
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(far: Sshd, limits: list[int] | None = None) -> Iterator[Proxy]:
    """A proxy to an sshd, whose host key is known under the proxy's port too."""
    made = Proxy(far.port, limits or [])
    known_hosts(far.root, made.port, (far.root / "host.pub").read_text(), add=True)
    try:
        yield made
    finally:
        made.close()


def bare_python(folder: Path) -> str:
    """A PATH on which python3 is this interpreter without any package: neither torch nor numpy can be imported."""
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    return f"{folder}/bin:/usr/bin:/bin"
