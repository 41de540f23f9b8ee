"""The folder in which a bench keeps what it measured: one bench at a time, whatever the disk does."""

import errno
import fcntl
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kd2edge.edge.kept import CELL, IMAGES, kept_in
from kd2edge.edge.worker import Answer
from kd2edge.errors import UserError


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "cells"


def test_a_second_bench_is_kept_out_and_one_that_is_done_leaves_the_way_free(room: Path) -> None:
    with kept_in(room) as first:
        with pytest.raises(UserError, match=r"Another bench is measuring for this report, in .*cells"), kept_in(room):
            pass
        first.remove()
        with kept_in(room) as second:  # the first is done, its lock is gone with its folder
            (second.work() / "samples.npy").write_bytes(b"1")
            second.keep("place", "key", Answer())
            first.tidy()  # nothing there is the first's
            (second.work() / CELL).write_bytes(b"killed before it was put into its place")
    with kept_in(room) as third:
        assert third.earlier == 1
        assert third.find("place", "key") is not None
        assert third.find("place", "another key") is None


def test_who_comes_while_a_bench_removes_what_it_kept_is_kept_out_or_finds_nothing_of_it(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[int | None] = []

    def second(real: Callable[..., None], *given: Any, **options: Any) -> None:
        real(*given, **options)
        monkeypatch.undo()
        try:
            with kept_in(room) as other:
                came.append(other.earlier)
        except UserError:
            came.append(None)
        watch()

    def watch() -> None:
        for name in ("unlink", "rmdir"):
            monkeypatch.setattr(os, name, partial(second, getattr(os, name)))

    with kept_in(room) as first:
        for place in range(20):  # in whatever order the disk names them
            first.work()
            first.keep(str(place), "key", Answer())
        (room / IMAGES).write_bytes(b"2")
        watch()
        first.remove()
        monkeypatch.undo()
    assert len(came) > 3
    assert set(came) == {None, 0}
    assert not room.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which none can be made, not even by root")
def test_a_folder_that_cannot_be_made_is_a_sentence() -> None:
    with pytest.raises(UserError, match="could not be written"), kept_in(Path("/proc/nothing/cells")):
        pass


def test_a_file_system_without_locks_is_a_sentence(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(UserError, match="No locks available"), kept_in(room):
        pass


def test_a_full_disk_is_a_sentence_and_what_was_measured_stays(room: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with kept_in(room) as room_kept:
        (room_kept.work() / "samples.npy").write_bytes(b"1")
        room_kept.keep("first", "key", Answer())
        (room_kept.work() / "samples.npy").write_bytes(b"2")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
            with pytest.raises(UserError, match=r"cell\.json could not be written"):
                room_kept.keep("second", "key", Answer())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with kept_in(room) as later:
        assert later.find("first", "key") is not None
        assert later.find("second", "key") is None
