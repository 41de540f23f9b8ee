"""aarch64 without a board: its wheels resolve, and a real aarch64 Python under qemu-user benches FP32 and INT8.

What is emulated computes what it should; how fast says nothing, so that no latency is looked at. Debian's packages and
the wheels, some 140 MB, are fetched once into a cache; where they cannot be had the tests skip and say why.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.boards import ROLES, Board, furnish, requirements

pytestmark = [pytest.mark.network, pytest.mark.slow]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kd2edge-tests" / "aarch64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE = "bookworm"  # Debian 12: Python 3.11, glibc 2.36
PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "libstdc++6"),
    *("libexpat1", "zlib1g", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libsqlite3-0"),
)
# qemu 7.2, Debian 12's, ends by a segmentation fault where onnxruntime 1.29 to 1.31 is imported.
UNDER_QEMU = "onnxruntime<=1.27.0"
GLIBC = {"3.10": 35, "3.11": 36, "3.12": 39}  # of Ubuntu 22.04 (JetPack 6), of Debian 12, of Ubuntu 24.04


def pip(version: str) -> list[str]:
    """pip as an aarch64 Linux with that Python would be served; nothing is compiled."""
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC[version], 16, -1)] + ["manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", version]
    return command + [word for tag in tags for word in ("--platform", tag)]


def installed(version: str, *arguments: str) -> str:
    """What pip says on stdout; skips where the registry does not answer."""
    done = subprocess.run([*pip(version), *arguments], capture_output=True, text=True)
    silent = any(sign in done.stderr for sign in ("Could not fetch", "Temporary failure", "Connection", "Retrying"))
    if done.returncode and silent:
        pytest.skip(f"the package registry does not answer: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_the_edge_wing_resolves_to_wheels_of_a_jetson(version: str, tmp_path: Path) -> None:
    """JetPack 6 has Python 3.10, JetPack 7 has 3.12. With it goes the driver that serves where pycuda is not built."""
    wanted = [*requirements(), "cuda-bindings>=12.6"]
    options = ["--dry-run", "--ignore-installed", "--target", str(tmp_path), "--report", "-"]
    found = json.loads(installed(version, *options, *wanted))["install"]
    files = {item["metadata"]["name"].lower(): item["download_info"]["url"].rsplit("/", 1)[-1] for item in found}
    assert {"numpy", "onnxruntime", "pydantic_core", "cryptography", "cuda-bindings"} <= files.keys()
    built = [file for file in files.values() if not file.endswith("-any.whl")]
    assert len(built) >= 7
    assert [file for file in built if not file.endswith("_aarch64.whl")] == []
    assert not [name for name in files if name.startswith(("torch", "tensorrt", "pycuda"))]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    root, site, emulator = fetched_root(), fetched_site(), fetched_emulator()
    folder = furnish(tmp_path_factory.mktemp("board"))
    python = root / "usr" / "bin" / "python3.11"
    words = [str(emulator), "-cpu", "cortex-a76", "-L", str(root), str(python)]
    program = folder / "python"  # the emulated Python cannot start itself: the kernel knows no aarch64
    program.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    program.chmod(0o755)
    return Board((str(program),), site, folder, program)


def test_the_interpreter_is_what_it_should_be(board: Board) -> None:
    told = board.run("-c", "import platform, numpy; print(platform.machine(), platform.python_version_tuple()[:2])")
    assert told.split(maxsplit=1) == ["aarch64", "('3', '11')\n"]


@pytest.mark.parametrize("role", ROLES)
def test_aarch64_computes_what_this_machine_computes(board: Board, role: str) -> None:
    """In INT8 a value that falls between two steps may be rounded to the other: 1 of 30 images had one, 8e-4 away."""
    differences = board.differences(role)
    assert np.mean(differences <= 1e-4) >= (1 if role == "fp32" else 0.9)
    assert differences.max() <= 0.01


def test_the_whole_bench_runs_there(board: Board) -> None:
    """Of INT8 alone: each of its five processes takes an emulated Python seconds to start."""
    report = board.benched(("int8",))
    assert [(row.role, row.faults) for row in report.rows] == [("int8", ())]
    assert all(row.provider == "CPUExecutionProvider" for row in report.rows)
    assert "asimd" in report.device["flags"] or "aarch64" in report.device["os"]
    for row in report.rows:
        assert row.numbers["top1"].value == pytest.approx(board.top1(row.role), abs=100 / 30 + 1e-9)
        assert (row.numbers["latency_p50"].n or 0) >= 12


def fetched(name: str, key: Sequence[str]) -> tuple[Path, bool]:
    """A folder of the cache for what `key` says, and whether it is whole already."""
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    return folder, (folder / ".whole").is_file()


def anew(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def fetched_site() -> Path:
    """The edge wing's dependencies as aarch64 wheels, unpacked."""
    wanted = [*requirements(), UNDER_QEMU]
    site, whole = fetched("site", wanted)
    if not whole:
        anew(site)
        installed("3.11", "--no-compile", "--target", str(site), *wanted)
        (site / ".whole").touch()
    return site


def fetched_root() -> Path:
    """Debian's aarch64 Python and what it is linked to, unpacked; nothing is installed and nothing needs root."""
    root, whole = fetched("root", [RELEASE, *PACKAGES])
    if not whole:
        anew(root)
        for package in downloaded(*PACKAGES):
            subprocess.run(["dpkg", "-x", package, root], check=True, capture_output=True)
        (root / ".whole").touch()
    return root


def fetched_emulator() -> Path:
    """qemu-aarch64-static: the machine's own, else Debian's."""
    known = shutil.which("qemu-aarch64-static")
    if known:
        return Path(known)
    room, whole = fetched("qemu", [RELEASE])
    if not whole:
        anew(room)
        (package,) = downloaded("qemu-user-static:amd64")
        archive = subprocess.run(["dpkg", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        only = ["tar", "-x", "-C", str(room), "./usr/bin/qemu-aarch64-static"]
        subprocess.run(only, input=archive, check=True, capture_output=True)
        package.unlink()
        (room / ".whole").touch()
    return room / "usr" / "bin" / "qemu-aarch64-static"


def downloaded(*packages: str) -> list[Path]:
    """Debian packages, checked by apt with Debian's keys, by an apt that knows nothing of this machine's."""
    if not (shutil.which("apt-get") and shutil.which("dpkg") and KEYRING.is_file()):
        pytest.skip("no apt-get with Debian's keys on this machine")
    room, debs = CACHE / "apt", CACHE / "debs"
    for folder in (room / "lists" / "partial", room / "archives" / "partial", debs):
        folder.mkdir(parents=True, exist_ok=True)
    (room / "status").touch()
    (room / "sources").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {RELEASE} main\n")
    (room / "conf").write_text(
        f'APT::Architecture "arm64";\nAPT::Architectures {{ "arm64"; "amd64"; }};\nAPT::Sandbox::User "";\n'
        f'Dir::State "{room}";\nDir::State::status "{room}/status";\nDir::Cache "{room}";\n'
        f'Dir::Etc::SourceList "{room}/sources";\nDir::Etc::SourceParts "-";\n'
        'Acquire::Languages "none";\nAcquire::http::Timeout "20";\n'
    )
    for command in (["update"], ["download", *packages]):
        environment = {**os.environ, "APT_CONFIG": str(room / "conf")}
        done = subprocess.run(["apt-get", "-q", *command], cwd=debs, env=environment, capture_output=True, text=True)
        if done.returncode or "Failed to fetch" in done.stderr:
            pytest.skip(f"Debian's packages cannot be had: {done.stderr.strip().splitlines()[-1]}")
    names = [package.partition(":")[0] for package in packages]
    return [next(debs.glob(f"{name}_*.deb")) for name in names]
