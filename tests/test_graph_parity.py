"""The ladder: what counts as the same output, and at which precision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from kd2edge.errors import UserError
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import Level, Parity, compare, require, run_onnx
from tests.graphs import images, residual_net

SAME = Parity(0.0, 0.0, 1.0, 1.0, 1.0)
OUTPUTS = arrays.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32))


def test_figures_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 2.0]])
    candidate = np.array([[4.0, 3.0], [0.0, 2.5]])
    parity = compare(reference, candidate)
    assert parity.max_abs == 1.0
    assert parity.max_abs_relative == 0.25
    assert parity.cosine_min == pytest.approx(24 / 25)
    assert parity.cosine_mean == pytest.approx((24 / 25 + 1) / 2)
    assert parity.argmax_agreement == 0.5


@given(OUTPUTS)
def test_an_output_agrees_with_itself_at_every_level(x: NDArray[np.float32]) -> None:
    parity = compare(x, x)
    for level in ("fp32", "fp16", "int8"):
        require(parity, level)
    assert (parity.max_abs, parity.argmax_agreement) == (0, 1)


@given(OUTPUTS, OUTPUTS)
def test_figures_stay_in_their_ranges(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    parity = compare(a, b)
    assert -1.000001 <= parity.cosine_min <= parity.cosine_mean + 1e-12 <= 1.000001
    assert 0 <= parity.argmax_agreement <= 1
    assert parity.max_abs == compare(b, a).max_abs >= 0


def test_zeros_agree_with_zeros_only() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert compare(zeros, zeros) == SAME
    assert compare(zeros, ones).cosine_mean == compare(ones, zeros).cosine_mean == 0
    assert compare(zeros, ones).max_abs_relative == float("inf")


@pytest.mark.parametrize(
    ("level", "parity"),
    [
        ("fp32", replace(SAME, max_abs_relative=2e-4)),
        ("fp32", replace(SAME, cosine_min=0.9999)),
        ("fp16", replace(SAME, cosine_mean=0.998)),
        ("fp16", replace(SAME, cosine_min=0.98)),
        ("int8", replace(SAME, cosine_mean=0.89)),
    ],
)
def test_below_its_level_a_candidate_is_refused(level: Level, parity: Parity) -> None:
    with pytest.raises(UserError, match=level.upper()):
        require(parity, level)


@pytest.mark.parametrize("level", ["fp32", "fp16", "int8"])
def test_what_is_not_a_number_never_passes(level: Level) -> None:
    broken = np.ones((2, 3))
    broken[1, 1] = np.nan
    with pytest.raises(UserError):
        require(compare(np.ones((2, 3)), broken), level)


def test_levels_forgive_what_they_should() -> None:
    require(replace(SAME, max_abs_relative=9e-5, cosine_min=0.999991), "fp32")
    require(replace(SAME, max_abs_relative=0.1, cosine_min=0.991, cosine_mean=0.9991), "fp16")
    require(replace(SAME, max_abs_relative=0.5, cosine_min=0.2, cosine_mean=0.91), "int8")


@pytest.mark.parametrize(("a", "b"), [((2, 3), (2, 4)), ((0, 3), (0, 3)), ((3,), (3,))])
def test_outputs_that_do_not_match_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        compare(np.ones(a), np.ones(b))


def test_a_model_runs_from_memory_and_from_a_file(tmp_path: Path) -> None:
    save_model(residual_net(), tmp_path / "model.onnx")
    x = images(3)
    np.testing.assert_array_equal(run_onnx(residual_net(), x), run_onnx(tmp_path / "model.onnx", x))


def test_a_file_that_onnxruntime_refuses_is_told(tmp_path: Path) -> None:
    bad = residual_net()
    bad.graph.node[0].op_type = "Nonsense"
    (tmp_path / "bad.onnx").write_bytes(bad.SerializeToString())
    with pytest.raises(UserError, match=r"bad\.onnx cannot be loaded"):
        run_onnx(tmp_path / "bad.onnx", images(1))
