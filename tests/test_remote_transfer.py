"""Files over a real sshd: dropped connections, host keys, a full disk, odd names, far sides that lie or lack Python."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kd2edge.edge.kit import File, file_of
from kd2edge.errors import UserError
from kd2edge.progress import Silent
from kd2edge.verbs import remote_transfer
from kd2edge.verbs.remote_address import Address, parse
from kd2edge.verbs.remote_ssh import hello
from kd2edge.verbs.remote_transfer import fetch, fetch_small, persist, push
from tests import sshd
from tests.sshd import Sshd

ODD = "a 'file' with \"quotes\" $HOME; `id` ü.bin"
SILENT = Silent()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    root = tmp_path_factory.mktemp("sshd")
    with sshd.serving(root / "far", sshd.bare_python(root / "bare")) as serving:
        yield serving


@pytest.fixture(autouse=True)
def by_its_own_keys(far: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD2EDGE_SSH", far.command)
    monkeypatch.setattr(remote_transfer, "PAUSES", (0, 0, 0, 0))


def content(folder: Path, **sizes: int) -> dict[str, Path]:
    """Files of so many bytes, by name, in a folder."""
    folder.mkdir()
    draw = np.random.default_rng(1)
    for name, size in sizes.items():
        (folder / name).write_bytes(draw.bytes(size))
    return {name: folder / name for name in sizes}


def at(far: Sshd, port: int | None = None) -> Address:
    return parse(f"ssh://127.0.0.1:{port or far.port}")


def test_the_far_side_says_what_it_is(far: Sshd) -> None:
    found = hello(at(far))
    assert found["python"] == list(sys.version_info[:2])
    assert found["machine"] == os.uname().machine


def test_files_go_and_come_whatever_their_folder_and_name(far: Sshd, tmp_path: Path) -> None:
    files = {f"in/{ODD}": content(tmp_path / "a", one=300_000)["one"], "empty": content(tmp_path / "b", two=0)["two"]}
    folder = f'{far.root}/it\'s "here" $(id) &'
    assert push(at(far), folder, files, SILENT) == 300_000
    assert (Path(folder) / "in" / ODD).read_bytes() == files[f"in/{ODD}"].read_bytes()
    assert stat.S_IMODE((Path(folder) / "in").stat().st_mode) == 0o700
    assert push(at(far), folder, files, SILENT) == 0
    wanted = {name: file_of(path) for name, path in files.items()}
    fetch(at(far), folder, wanted, tmp_path / "back", SILENT)
    assert {name: file_of(tmp_path / "back" / name) for name in files} == wanted
    assert fetch_small(at(far), folder, "empty", 10) == b""


def test_a_tilde_is_the_far_sides_home(far: Sshd, tmp_path: Path) -> None:
    push(at(far), "~/.cache/x/kits/1", content(tmp_path / "a", one=10), SILENT)
    assert (far.home / ".cache/x/kits/1/one").is_file()


def test_what_an_earlier_kit_has_is_not_sent_again(far: Sshd, tmp_path: Path) -> None:
    files = content(tmp_path / "a", wheel=50_000, model=1_000)
    assert push(at(far), "~/kits/1", files, SILENT) == 51_000
    (tmp_path / "a" / "model").write_bytes(b"another")
    assert push(at(far), "~/kits/2", files, SILENT) == 7
    assert (far.home / "kits/2/wheel").read_bytes() == (tmp_path / "a" / "wheel").read_bytes()


def test_a_connection_lost_in_mid_transfer_is_taken_up_where_it_broke(far: Sshd, tmp_path: Path) -> None:
    files = content(tmp_path / "a", first=200_000, second=8_000_000)
    with sshd.proxy(far, [4_000_000, 3_000_000]) as between:
        sent = persist(lambda: push(at(far, between.port), "~/kits/3", files, SILENT), at(far), SILENT, "again")
        assert between.connections == 3
    assert 0 < sent < 7_500_000  # of 8.2 MB, but for what the far side had by then
    assert (far.home / "kits/3/second").read_bytes() == files["second"].read_bytes()
    assert list((far.home / "kits/3").glob("*.part")) == []


def test_half_a_file_is_never_taken_for_whole(far: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = content(tmp_path / "a", one=30_000_000)
    monkeypatch.setattr(remote_transfer, "TRIES", 3)
    with sshd.proxy(far, [2_000_000] * 40) as between, pytest.raises(UserError, match="is lost") as fault:
        persist(lambda: push(at(far, between.port), "~/kits/4", files, SILENT), at(far), SILENT, "kd2edge export X")
    assert "the same command goes on: kd2edge export X" in str(fault.value)
    (left,) = (far.home / "kits/4").iterdir()
    assert left.name == "one.part"
    assert 0 < left.stat().st_size < 6_000_000


def test_a_part_of_another_content_is_begun_anew(far: Sshd, tmp_path: Path) -> None:
    files = content(tmp_path / "a", one=100_000)
    part = far.home / "kits/5/one.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(files["one"].read_bytes()[:50_000])
    assert push(at(far), "~/kits/5", files, SILENT) == 50_000
    (part.parent / "one").write_bytes(b"x" * 100_000)  # as long as it has to be
    part.write_bytes(b"x" * 50_000)
    assert push(at(far), "~/kits/5", files, SILENT) == 100_000
    assert (part.parent / "one").read_bytes() == files["one"].read_bytes()


def test_a_part_that_is_a_link_is_not_followed(far: Sshd, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.write_bytes(b"precious")
    (far.home / "kits/6").mkdir(parents=True)
    (far.home / "kits/6/one.part").symlink_to(aside)
    with pytest.raises(UserError):
        push(at(far), "~/kits/6", content(tmp_path / "a", one=100), SILENT)
    assert aside.read_bytes() == b"precious"


def test_fetching_goes_on_where_it_broke_and_believes_no_part(far: Sshd, tmp_path: Path) -> None:
    (file,) = content(tmp_path / "a", one=300_000).values()
    there = far.home / "out"
    there.mkdir()
    (there / "one").write_bytes(file.read_bytes())
    back = tmp_path / "back"
    back.mkdir()
    (back / "one.part").write_bytes(file.read_bytes()[:200_000])
    fetch(at(far), "~/out", {"one": file_of(file)}, back, SILENT)
    assert (back / "one").read_bytes() == file.read_bytes()
    (back / "one").write_bytes(b"spoilt")
    (back / "one.part").write_bytes(b"x" * 200_000)
    with pytest.raises(UserError, match="sha256 differs"):
        fetch(at(far), "~/out", {"one": file_of(file)}, back, SILENT)
    assert list(back.iterdir()) == [back / "one"]
    fetch(at(far), "~/out", {"one": file_of(file)}, back, SILENT)
    with pytest.raises(UserError, match="not the size"):
        fetch(at(far), "~/out", {"one": File(sha256="0" * 64, bytes=5)}, tmp_path / "c", SILENT)
    with pytest.raises(UserError, match="No such file"):
        fetch_small(at(far), "~/out", "two", 10)


def test_an_unknown_host_key_is_refused(far: Sshd, tmp_path: Path) -> None:
    (far.root / "none").write_text("")
    address = Address("127.0.0.1", None, far.port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", f"{far.command} -o UserKnownHostsFile={far.root}/none")
        with pytest.raises(UserError, match="is not known") as fault:
            hello(address)
    assert f"ssh -p {far.port} 127.0.0.1" in str(fault.value)
    assert (far.root / "none").read_text() == ""


def test_another_host_key_is_refused_with_a_warning(far: Sshd) -> None:
    known = far.root / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", known], check=True)
    hosts = far.root / "wrong_hosts"
    hosts.write_text(f"[127.0.0.1]:{far.port} {' '.join((far.root / 'wrong.pub').read_text().split()[:2])}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", f"{far.command} -o UserKnownHostsFile={hosts}")
        with pytest.raises(UserError, match="may be another machine"):
            hello(at(far))


def test_a_key_that_is_not_authorized_and_a_port_where_nobody_answers(far: Sshd) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", f"{far.command} -o IdentityFile=/dev/null -o PubkeyAuthentication=no")
        with pytest.raises(UserError, match="without a password") as fault:
            hello(at(far))
    assert "ssh-copy-id" in str(fault.value)
    with pytest.raises(UserError, match=r"cannot be reached: .*refused"):
        hello(at(far, sshd.free_port()))


def test_a_far_side_without_python(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with sshd.serving(tmp_path / "far", str(tmp_path / "empty")) as bare, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", bare.command)
        with pytest.raises(UserError, match="has no python3"):
            hello(at(bare))


def test_work_that_is_killed_is_not_a_lost_connection(tmp_path: Path) -> None:
    """As the kernel does where memory runs out: it is not begun again and again."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    with sshd.serving(tmp_path / "far", f"{tmp_path}/bin") as dying, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", dying.command)
        with pytest.raises(UserError, match="was killed"):
            push(at(dying), "~/kits/1", content(tmp_path / "a", one=10), SILENT)


def test_a_full_far_disk(tmp_path: Path) -> None:
    """A file system of one MiB, in sshd's own namespace."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a small file system; the test below has another limit")
    more = f"mkdir -p {tmp_path}/small && mount -t tmpfs -o size=1M none {tmp_path}/small"
    files = content(tmp_path / "a", little=10_000, much=3_000_000)
    bare = sshd.bare_python(tmp_path / "bare")
    with sshd.serving(tmp_path / "far", bare, more) as small, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", small.command)
        with pytest.raises(UserError, match=r"The disk of 127\.0\.0\.1 is full \(.*small"):
            push(at(small), f"{tmp_path}/small/kits/1", files, SILENT)


def test_a_far_side_that_may_write_no_more(tmp_path: Path) -> None:
    """A limit on files, which any user may set; Python learns of it as of a quota."""
    files = content(tmp_path / "a", little=10_000, much=3_000_000)
    bare = sshd.bare_python(tmp_path / "bare")
    with sshd.serving(tmp_path / "far", bare, "ulimit -f 2000") as small, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", small.command)
        with pytest.raises(UserError, match="is full"):
            push(at(small), "~/kits/1", files, SILENT)
        assert (small.home / "kits/1/little").is_file()
        assert not (small.home / "kits/1/much").exists()


LIAR = """
import hashlib, json, re, sys
size = int(re.search(r"buffer.read.([0-9]+)", sys.argv[-1])[1])
print("Welcome to a chatty machine\\n" + re.search(r"kd2edge-[0-9a-f]{16}", sys.argv[-1])[0], flush=True)
source = sys.stdin.buffer.read(size)
request = json.loads(sys.stdin.buffer.readline())
def tell(**line):
    print(json.dumps(line), flush=True)
if request.get("do") == "take":
    tell(have=[[size, digest] for _, size, digest in request["files"]])
elif request.get("do") == "give":
    for name, start in request["files"]:
        tell(bytes=LENGTH)
        sys.stdout.write("x" * LENGTH)
"""


def test_a_far_side_that_lies_about_hashes_is_not_believed_what_it_gives(tmp_path: Path) -> None:
    """It says that it has everything; what it then gives back is something else, or more, or less."""
    (file,) = content(tmp_path / "a", one=1000).values()
    for length, told in ((1000, "sha256 differs"), (10, "not the size"), (10**6, "not the size")):
        (tmp_path / "liar.py").write_text(LIAR.replace("LENGTH", str(length)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KD2EDGE_SSH", f"{sys.executable} {tmp_path}/liar.py")
            assert push(Address("liar"), "~/kits/1", {"one": file}, SILENT) == 0
            with pytest.raises(UserError, match=told):
                fetch(Address("liar"), "~/kits/1", {"one": file_of(file)}, tmp_path / "back", SILENT)
    assert not (tmp_path / "back" / "one").exists()


def test_a_far_side_whose_python_is_too_old(tmp_path: Path) -> None:
    said = "tell(python=[3, 8], machine='aarch64', libc=[2, 31])"
    (tmp_path / "old.py").write_text(LIAR.split("if request.get")[0] + said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", f"{sys.executable} {tmp_path}/old.py")
        with pytest.raises(UserError, match=r"has Python 3\.8; kd2edge needs 3\.10"):
            hello(Address("jetpack5"))


def test_a_far_side_that_talks_nonsense_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "nonsense.py").write_text(LIAR.split("def tell")[0] + "print(json.dumps([[[[]]]]), '\\x1b[2J')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD2EDGE_SSH", f"{sys.executable} {tmp_path}/nonsense.py")
        with pytest.raises(UserError, match="does not say what machine"):
            hello(Address("liar"))
        with pytest.raises(UserError, match="does not say what it has"):
            push(Address("liar"), "~/kits/1", {}, SILENT)
