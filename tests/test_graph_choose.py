"""What `auto` goes by: distances to the float output that can be said by hand, and choices that are plain to see."""

import numpy as np
import pytest

from kd2edge.errors import UserError
from kd2edge.graph.choose import output_errors
from kd2edge.graph.quantize import Remedies, quantize_model
from kd2edge.graph.run import run_onnx
from tests.graphs import images, outlier_net, pooled_net, residual_net


def test_the_error_is_one_less_the_mean_cosine_whatever_the_batches() -> None:
    model, other = residual_net(), residual_net("pad")
    x = images(10)
    a, b = run_onnx(model, x).astype(np.float64), run_onnx(other, x).astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    other.graph.output[0].name = model.graph.output[0].name
    other.graph.node[-1].output[0] = model.graph.output[0].name
    errors, count = output_errors(model, {"itself": model, "other": other}, [x[:3], x[3:]])
    assert count == 10
    assert errors["itself"] == pytest.approx(0, abs=1e-12)
    assert errors["other"] == pytest.approx(1 - cosines.mean(), rel=1e-6)


def test_too_few_images_to_hold_some_out_are_refused() -> None:
    with pytest.raises(UserError, match="too few calibration images"):
        quantize_model(pooled_net(), [images(3)], "tensorrt")


def test_no_image_calibrates_and_judges() -> None:
    """The fourth image of every four is far brighter than the rest: its values are in none of the ranges."""
    x = images(16)
    x[3::4] *= 3
    result = quantize_model(pooled_net(), np.split(x, 4), "ort-x86", "auto")
    assert (result.images, result.held_out) == (16, 4)
    widest = quantize_model(
        pooled_net(), [np.delete(x, np.s_[3::4], axis=0)], "ort-x86", "minmax", False, Remedies(True, False)
    )
    assert all(limits.high <= widest.ranges[name].high for name, limits in result.ranges.items())


@pytest.mark.parametrize("correct_bias", [True, False, "auto"])
def test_biases_are_corrected_when_told_or_when_it_helps(correct_bias: bool | str) -> None:
    remedies = Remedies(correct_bias=correct_bias)  # type: ignore[arg-type]
    result = quantize_model(outlier_net(), [images(32)], "tensorrt", "minmax", remedies=remedies)
    if correct_bias == "auto":
        errors = result.errors
        assert result.corrects_bias == (errors["minmax, biases corrected"] < errors["minmax"])
        assert result.held_out == 8
    else:
        assert result.corrects_bias == correct_bias
        assert (result.errors, result.held_out) == ({}, 0)
