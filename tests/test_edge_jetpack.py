"""How a Jetson is set up, as its files tell: three boards (`jetsons.py`), and releases that nobody knows."""

from pathlib import Path

import pytest

from kd2edge.edge import jetpack
from tests.jetsons import BOARDS, CPU, DEVFREQ, orin_nano, tree


def test_how_a_board_is_set_up(tmp_path: Path) -> None:
    nano = orin_nano(tmp_path)
    assert jetpack.described(nano) == {
        "jetpack": "6.2",
        "power_mode_name": "MAXN_SUPER",
        "jetson_clocks": False,
        "fan": 0.4,
    }
    fixed = {f"{CPU}/policy0/scaling_min_freq": 1_728_000, f"{DEVFREQ}/17000000.gpu/min_freq": 1_020_000_000}
    assert jetpack.clocks_fixed(tree(nano, fixed)) is True
    tree(nano, {f"{CPU}/policy4/scaling_min_freq": 729_600, f"{CPU}/policy4/scaling_max_freq": 1_728_000})
    assert jetpack.clocks_fixed(nano) is False
    (nano / CPU / "policy4/scaling_max_freq").unlink()
    assert jetpack.clocks_fixed(nano) is None


def test_a_gpu_alone_does_not_tell_whether_the_clocks_are_fixed(tmp_path: Path) -> None:
    tree(tmp_path, {f"{DEVFREQ}/17000000.gpu/{name}_freq": 1_020_000_000 for name in ("min", "max")})
    assert jetpack.clocks_fixed(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "release", "version"), [("jetson-agx-orin", "36.3.0", "6.0"), ("jetson-thor", "38.4.0", "7.1")]
)
def test_the_release_of_other_boards(tmp_path: Path, name: str, release: str, version: str) -> None:
    root = BOARDS[name](tmp_path)
    assert (jetpack.release(root), jetpack.described(root)["jetpack"]) == (release, version)


def test_a_release_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    root = tree(orin_nano(tmp_path), {"etc/nv_tegra_release": "# R36 (release), REVISION: 9.9, GCID: 1"})
    assert (jetpack.release(root), jetpack.described(root)["jetpack"]) == ("36.9.9", None)
    tree(root, {"etc/nv_tegra_release": "garbage", "etc/nvpmodel.conf": ""})
    assert jetpack.described(root) == {"jetpack": None, "power_mode_name": "2", "jetson_clocks": None, "fan": 0.4}


def test_what_is_no_jetson_is_described_by_nothing(tmp_path: Path) -> None:
    assert set(jetpack.described(tmp_path).values()) == {None}
