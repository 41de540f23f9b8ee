"""The journal: the first answer is the answer, whatever interrupts."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd2edge.errors import UserError
from kd2edge.files import disk_fault
from kd2edge.schema import Section
from kd2edge.verbs.journal import FILE, Journal, Unlisted, locked


class Answer(Section):
    value: float


def calls(answers: list[float]) -> Iterator[Answer]:
    yield from (Answer(value=value) for value in answers)


def test_a_journal_gives_the_first_answer_for_ever_and_others_settings_have_their_own(tmp_path: Path) -> None:
    later = calls([1.0, 2.0, 3.0])
    journal = Journal(tmp_path, {"seed": 0})
    assert journal.once("timing", {"a": 1}, Answer, lambda: next(later)).value == 1
    assert Journal(tmp_path, {"seed": 0}).once("timing", {"a": 1}, Answer, lambda: next(later)).value == 1
    assert Journal(tmp_path, {"seed": 1}).once("timing", {"a": 1}, Answer, lambda: next(later)).value == 2
    assert Journal(tmp_path, {"seed": 0}).once("score", {"a": 1}, Answer, lambda: next(later)).value == 3


def test_a_fault_is_on_record_too(tmp_path: Path) -> None:
    def refuse() -> Answer:
        raise UserError("The builder refuses it.", "another builder")

    hints = []
    for measure in (refuse, lambda: Answer(value=1)):
        with pytest.raises(UserError, match="The builder refuses it") as raised:
            Journal(tmp_path, {}).once("timing", {}, Answer, measure)
        hints.append(raised.value.hint)
    assert hints[0] == "another builder"
    assert str(tmp_path / FILE) in str(hints[1])


def test_a_fault_that_is_not_its_own_is_not_put_on_record(tmp_path: Path) -> None:
    def refuse() -> Answer:
        raise Unlisted("The reference cannot be opened.")

    with pytest.raises(UserError, match="The reference"):
        Journal(tmp_path, {}).once("timing", {}, Answer, refuse)
    assert Journal(tmp_path, {}).once("timing", {}, Answer, lambda: Answer(value=1)).value == 1


def test_a_full_disk_is_not_put_on_record(tmp_path: Path) -> None:
    def full() -> Answer:
        error = OSError(errno.ENOSPC, "No space left")
        raise disk_fault(error, tmp_path) from error

    with pytest.raises(UserError, match="disk is full"):
        Journal(tmp_path, {}).once("timing", {}, Answer, full)
    assert Journal(tmp_path, {}).once("timing", {}, Answer, lambda: Answer(value=1)).value == 1


@pytest.mark.parametrize("line", ["{}}", "", '{"a": 1}', '"x"', "7", '{"key": 1, "what": "a", "about": {}}', "\x00"])
def test_a_damaged_or_foreign_line_is_told_by_its_number(line: str, tmp_path: Path) -> None:
    Journal(tmp_path, {}).once("timing", {}, Answer, lambda: Answer(value=1))
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=f"{FILE} is damaged: line 2 "):
        Journal(tmp_path, {})


def test_an_answer_of_another_kind_is_told_by_its_number(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Journal(tmp_path, {}).once(name, {}, Answer, lambda: Answer(value=1))
    path = tmp_path / FILE
    first, second = path.read_text().splitlines()
    for told in ('{"other":1.0}', "null"):
        path.write_text("\n".join([first, second.replace('{"value":1.0}', told), ""]))
        with pytest.raises(UserError, match="is damaged: line 2 "):
            Journal(tmp_path, {}).once("b", {}, Answer, lambda: Answer(value=1))


def test_a_torn_line_is_cut_off_and_measured_again(tmp_path: Path) -> None:
    later = calls([1.0, 2.0, 3.0])
    for name in ("a", "b"):
        Journal(tmp_path, {}).once(name, {}, Answer, lambda: next(later))
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    journal = Journal(tmp_path, {})
    assert journal.once("a", {}, Answer, lambda: next(later)).value == 1
    assert journal.once("b", {}, Answer, lambda: next(later)).value == 3
    assert [json.loads(line)["what"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "new"), pytest.raises(UserError, match="Another process"), locked(tmp_path / "new"):
        pass
    with locked(tmp_path / "new"):
        pass
