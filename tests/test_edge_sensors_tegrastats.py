"""tegrastats by lines that boards printed (`jetsons.py`), and by a script in its place; none was run."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd2edge.edge import jetson, tegrastats
from kd2edge.edge.tegrastats import Tegrastats
from tests.jetsons import BOARDS, HWMON, LINES, orin_nano


@pytest.mark.parametrize("name", BOARDS)
def test_a_recorded_line_of_tegrastats_has_the_rails_that_sysfs_has(tmp_path: Path, name: str) -> None:
    rails = tegrastats.rails(LINES[name])
    assert jetson.total(rails) == jetson.total(jetson.channels(BOARDS[name](tmp_path)))
    assert all(0.1 < watts < 30 for watts in rails.values())


def test_lines_of_other_releases() -> None:
    assert tegrastats.rails(LINES["jetpack 5"]) == {
        **{"VDD_GPU_SOC": 2.34, "VDD_CPU_CV": 0.39, "VIN_SYS_5V0": 4.025, "VDDQ_VDD2_1V8AO": 0.301}
    }
    assert tegrastats.rails(LINES["three values"])["VDD_IN"] == 4.548
    assert tegrastats.rails("") == {}


@pytest.fixture
def stats(tmp_path: Path) -> Iterator[Tegrastats]:
    """A script in the place of the program: one line at once, another each time a file appears."""
    program = tmp_path / "tegrastats"
    newer = LINES["jetson-orin-nano"].replace("VDD_IN 4900mW", "VDD_IN 7700mW")
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' '{LINES['jetson-orin-nano']}'\n"
        f"while [ ! -e {tmp_path}/more ]; do sleep 0.01; done\nprintf '%s\\n' '{newer}'; touch {tmp_path}/said\n"
        f"while [ ! -e {tmp_path}/end ]; do sleep 0.01; done\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    process = Tegrastats(str(program))
    yield process
    process.close()


def test_where_sysfs_tells_no_rail_tegrastats_does(tmp_path: Path, stats: Tegrastats) -> None:
    board = orin_nano(tmp_path / "board")
    (board / HWMON / "hwmon1/name").unlink()
    gpu = jetson.open_gpu(board, lambda: stats)
    assert gpu is not None
    assert (gpu.rails, gpu.read().watts) == (("VDD_IN",), (4.9,))
    (tmp_path / "more").touch()
    while not (tmp_path / "said").exists() or gpu.read().watts == (4.9,):
        pass
    assert gpu.read().watts == (7.7,)
    (tmp_path / "end").touch()
    stats.process.wait()
    assert gpu.read().watts == ()  # no power of a program that has ended
    gpu.close()


def test_one_that_tells_nothing_is_not_waited_for_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tegrastats"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(tegrastats, "FIRST_WITHIN_S", 0.05)
    board = orin_nano(tmp_path / "board")
    (board / HWMON / "hwmon1/name").unlink()
    silent = Tegrastats(str(program))
    gpu = jetson.open_gpu(board, lambda: silent)
    assert gpu is not None
    assert (gpu.rails, gpu.read().watts, silent.process.poll() is None) == ((), (), False)
    gpu.close()


def test_tegrastats_is_not_asked_where_sysfs_tells(tmp_path: Path) -> None:
    def never() -> Tegrastats:
        raise AssertionError

    assert jetson.open_gpu(orin_nano(tmp_path), never) is not None
