"""Addresses of far machines, and the command line that reaches them."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd2edge.errors import UserError
from kd2edge.verbs.remote_address import Address, parse
from kd2edge.verbs.remote_ssh import hello, ssh_command


def test_what_an_address_says() -> None:
    assert parse("ssh://orin") == Address("orin")
    assert parse("ssh://me@orin.local:2222/data/it's%20here/") == Address("orin.local", "me", 2222, "/data/it's here")
    assert parse("ssh://orin/~/kits") == Address("orin", folder="~/kits")
    assert parse("ssh://[fe80::1%25eth0]:22") == Address("fe80::1%eth0", None, 22)
    assert parse("ssh://me@orin").room == "~/.cache/kd2edge"
    assert parse("ssh://Orin@MyOrin:22").host == "MyOrin"  # as ssh's configuration may call it


@pytest.mark.parametrize(
    "address",
    [
        *("orin", "http://orin", "ssh://", "ssh://-oProxyCommand=x", "ssh://%2doProxyCommand=x", "ssh://a:99999"),
        *("ssh://me:secret@orin", "ssh://-l@orin", "ssh://a/b?c=d", "ssh://a/b#c", "ssh://a;b", "ssh://a%0ab/x"),
        *("ssh://a/%0a", "ssh://$(id)@a", "ssh://[::1", "ssh://a b"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError):
        parse(address)


@given(st.text(max_size=40))
def test_any_text_is_refused_or_names_a_host_that_is_no_option(text: str) -> None:
    try:
        found = parse(f"ssh://{text}")
    except UserError:
        return
    command = ssh_command(found, "mark", 10)
    assert command[-2] == found.host
    assert command[-3] == "--"
    assert not found.host.startswith("-")
    assert not (found.user or "").startswith("-")
    assert found.folder.isprintable()


def test_nothing_that_a_user_chooses_is_read_by_the_far_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD2EDGE_SSH", "ssh -F 'my config'")
    command = ssh_command(parse("ssh://me@orin:2222/it's; rm -rf ~"), "mark", 10)
    assert command[:3] == ["ssh", "-F", "my config"]
    assert command[-6:-1] == ["2222", "-l", "me", "--", "orin"]
    words = shlex.split(command[-1])
    assert words[:5] == ["exec", "python3", "-I", "-u", "-c"]
    assert len(words) == 6
    assert "rm" not in words[-1]
    assert {"StrictHostKeyChecking=yes", "BatchMode=yes"} <= set(command)


LOOSE = """
Host *
  StrictHostKeyChecking no
  VerifyHostKeyDNS yes
  NoHostAuthenticationForLocalhost yes
  ControlMaster auto
  ControlPath /tmp/%C
  ForwardAgent yes
  ForwardX11 yes
  LocalForward 9999 localhost:22
  RemoteCommand /bin/sh
  RequestTTY force
  BatchMode no
"""


def test_a_users_own_configuration_weakens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ssh's own account of what it would do."""
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh here")
    (tmp_path / "config").write_text(LOOSE)
    monkeypatch.setenv("KD2EDGE_SSH", f"ssh -G -F {tmp_path}/config")
    command = ssh_command(parse("ssh://orin"), "mark", 10)[:-1]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    told = dict(line.split(" ", 1) for line in said if " " in line)
    assert told["stricthostkeychecking"] == "true"
    for name in ("verifyhostkeydns", "nohostauthenticationforlocalhost"):
        assert told[name] in ("false", "no"), name
    for name in ("forwardagent", "forwardx11"):
        assert told[name] == "no", name
    assert told["requesttty"] in ("false", "no")
    assert told["batchmode"] == "yes"
    assert told["clearallforwardings"] == "yes"
    assert not {"localforward"} & set(told)
    assert told.get("controlpath", "none") == told.get("remotecommand", "none") == "none"


@pytest.mark.parametrize("ssh", ["ssh 'half", "  ", "no-such-ssh -v", "/etc"])
def test_an_ssh_that_cannot_be_started_is_a_sentence(ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD2EDGE_SSH", ssh)
    with pytest.raises(UserError, match=r"KD2EDGE_SSH is no command|cannot be started") as fault:
        hello(parse("ssh://orin"))
    assert "KD2EDGE_SSH" in str(fault.value)
